// SPDX-License-Identifier: Apache-2.0
// `tessera inspect`: what a checkpoint holds.
#include "core/checkpoint/describe.hpp"
#include "launcher/setup.hpp"

#include <fmt/core.h>

namespace tessera {
namespace {

int run_inspect(const Arguments& arguments, Process&) {
    fmt::print("{}", describe(open_checkpoint(arguments.words()[0])));
    return 0;
}

} // namespace

Command inspect_command() {
    return {"inspect",
            "list the tensors, step and config of a checkpoint",
            {"inspect CHECKPOINT|RUN",
             R"(Prints the step, the ranks that wrote it, every tensor with shape, dtype and
size, and the config of a checkpoint, or of the newest one of a run's folder.

Example
  tessera inspect runs/quickstart
)",
             {},
             1,
             1},
            run_inspect};
}

} // namespace tessera
