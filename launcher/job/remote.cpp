// SPDX-License-Identifier: Apache-2.0
// Processes started together and waited for together.
#include "launcher/job/remote.hpp"

#include "kernels/error.hpp"
#include "launcher/job/job.hpp"
#include "launcher/job/process.hpp"

#include <array>
#include <csignal>
#include <fcntl.h>
#include <poll.h>
#include <sstream>
#include <unistd.h>

namespace tessera {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::size_t at_a_time = 64;

struct Question {
    pid_t child = -1; // -1: ended
    Descriptor output;
    Answer answer;
};

Question ask(const std::vector<std::string>& command) {
    Question question;
    Pipe output = make_pipe();
    try {
        question.child = start_process(command, {}, {output.write.number(), output.write.number()});
    } catch (const SystemError& error) {
        question.answer.text = error.what();
        return question;
    }
    ::fcntl(output.read.number(), F_SETFL, O_NONBLOCK);
    question.output = std::move(output.read);
    return question;
}

// Whether it has ended, by itself or, when time is up, by force.
bool settle(Question& question, bool time_is_up) {
    if (question.child < 0) return true;
    std::optional<int> code = exit_code_of(question.child);
    question.answer.text += read_available(question.output);
    if (!code && time_is_up) {
        ::kill(-question.child, SIGKILL); // a session of its own: what the shell has started goes with it
        wait_for(question.child);
        question.answer.text += "no answer in time";
        code = 128 + SIGKILL;
    }
    if (!code) return false;
    question.child = -1;
    question.answer.came = *code == 0;
    return true;
}

std::vector<Answer> ask_some(const std::vector<std::vector<std::string>>& commands, std::chrono::seconds at_most,
                             const std::function<bool()>& stop) {
    std::vector<Question> questions;
    for (const std::vector<std::string>& command : commands)
        questions.push_back(ask(command));
    const Clock::time_point until = Clock::now() + at_most;
    for (bool all = false; !all;) {
        all = true;
        const bool time_is_up = Clock::now() >= until || (stop && stop());
        for (Question& question : questions)
            all = settle(question, time_is_up) && all;
        if (!all) ::poll(nullptr, 0, 10);
    }
    std::vector<Answer> answers;
    for (Question& question : questions)
        answers.push_back(std::move(question.answer));
    return answers;
}

} // namespace

std::vector<std::string> words_of(const std::string& remote_shell) {
    std::istringstream text(remote_shell);
    std::vector<std::string> words;
    for (std::string word; text >> word;)
        words.push_back(word);
    return words;
}

bool is_this_host(const std::string& name) {
    std::array<char, 256> buffer{};
    ::gethostname(buffer.data(), buffer.size() - 1);
    const std::string own = buffer.data();
    return name == "localhost" || name == own || name == own.substr(0, own.find('.'));
}

std::vector<Answer> ask_hosts(const std::vector<std::string>& hosts, const std::string& remote_shell,
                              const std::vector<std::string>& command, std::chrono::seconds at_most,
                              const std::function<bool()>& stop) {
    std::vector<Answer> answers;
    for (std::size_t begin = 0; begin < hosts.size(); begin += at_a_time) {
        std::vector<std::vector<std::string>> commands;
        for (std::size_t i = begin; i < std::min(begin + at_a_time, hosts.size()); ++i) {
            std::vector<std::string> words = command;
            if (!is_this_host(hosts[i])) {
                words = words_of(remote_shell);
                words.insert(words.end(), {hosts[i], quoted(command)});
            }
            commands.push_back(std::move(words));
        }
        const std::vector<Answer> some = ask_some(commands, at_most, stop);
        answers.insert(answers.end(), some.begin(), some.end());
    }
    return answers;
}

} // namespace tessera
