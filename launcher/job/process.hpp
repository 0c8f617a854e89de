// SPDX-License-Identifier: Apache-2.0
// A process that is started: descriptors, pipes, fork and exec, and how it ended.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <sys/types.h>
#include <vector>

namespace tessera {

// Owns a file descriptor; move-only, empty after a move.
class Descriptor {
public:
    explicit Descriptor(int number = -1) : number_(number) {}
    Descriptor(Descriptor&& other) noexcept;
    Descriptor& operator=(Descriptor&& other) noexcept;
    ~Descriptor();
    int number() const { return number_; } // -1: none

private:
    int number_;
};

struct Pipe {
    Descriptor read, write;
};

Pipe make_pipe(); // closed on exec; SystemError

// Where its output goes; -1: where ours goes.
struct Outputs {
    int standard = -1, error = -1;
};

// Starts `command` (found in PATH) in a session of its own, with /dev/null as its input, no signal blocked, and the
// variables of `environment` in addition to ours. It gets SIGTERM when this process dies. SystemError "cannot start X:
// why" when it cannot be executed.
pid_t start_process(const std::vector<std::string>& command, const std::map<std::string, std::string>& environment,
                    const Outputs& outputs);

// The exit code of a child that has ended, or 128 plus the number of the signal that ended it; nothing while it runs.
std::optional<int> exit_code_of(pid_t child);
// The same, waited for.
int wait_for(pid_t child);

// What can be read until the other end is closed; with O_NONBLOCK, what is there.
std::string read_available(const Descriptor& from);

} // namespace tessera
