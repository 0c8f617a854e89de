// SPDX-License-Identifier: Apache-2.0
// Marks on a CPU, where work is done when its call returns: readings of the clock. Those on a GPU: cuda/timer.cpp.
#include "kernels/timer.hpp"

#include <chrono>

namespace tessera {
namespace {

class CpuTimer final : public Timer {
public:
    void mark() override { marks_.push_back(Clock::now()); }

    std::vector<double> take() override {
        std::vector<double> seconds;
        for (std::size_t i = 1; i < marks_.size(); ++i)
            seconds.push_back(std::chrono::duration<double>(marks_[i] - marks_[i - 1]).count());
        marks_.clear();
        return seconds;
    }

private:
    using Clock = std::chrono::steady_clock;
    std::vector<Clock::time_point> marks_;
};

} // namespace

std::unique_ptr<Timer> make_timer(const CpuStream&) { return std::make_unique<CpuTimer>(); }

} // namespace tessera
