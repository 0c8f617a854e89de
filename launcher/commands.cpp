// SPDX-License-Identifier: Apache-2.0
// The list of subcommands; each stands in the file of its name.
#include "launcher/commands.hpp"

namespace tessera {

Command bench_command();
Command checkpoint_command();
Command config_command();
Command data_command();
Command doctor_command();
Command evaluate_command();
Command generate_command();
Command host_command();
Command launch_command();
Command plan_command();
Command rank_command();
Command submit_command();
Command trace_command();
Command train_command();
Command verify_command();

std::vector<Command> commands() {
    return {
        bench_command(),    checkpoint_command(), config_command(), data_command(),   doctor_command(),
        evaluate_command(), generate_command(),   host_command(),   launch_command(), plan_command(),
        rank_command(),     submit_command(),     trace_command(),  train_command(),  verify_command(),
    };
}

} // namespace tessera
