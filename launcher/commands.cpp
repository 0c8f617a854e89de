// SPDX-License-Identifier: Apache-2.0
// The list of subcommands; each stands in the file of its name.
#include "launcher/commands.hpp"

namespace tessera {

Command config_command();
Command inspect_command();
Command launch_command();

std::vector<Command> commands() {
    return {
        config_command(),
        inspect_command(),
        launch_command(),
    };
}

} // namespace tessera
