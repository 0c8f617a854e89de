// SPDX-License-Identifier: Apache-2.0
// Marks in a stream's order: one time between each two, of the work between them, and none left over afterwards.
#include "kernels/timer.hpp"

#include "tests/support/device.hpp"

#include <chrono>
#include <gmock/gmock.h>
#include <thread>

using namespace tessera;

namespace timer_test {

namespace {

template <class Device> class StreamTimer : public testing::Test {
protected:
    Device on;
    Sample x{Shape{5000}, DType::f32, 1};
};
TYPED_TEST_SUITE(StreamTimer, Devices, DeviceNames);

} // namespace

TYPED_TEST(StreamTimer, ATimeBetweenEachTwoMarks) {
    auto& stream = this->on.stream();
    const auto timer = make_timer(stream);
    EXPECT_TRUE(timer->take().empty());
    for (int round = 0; round < 2; ++round) { // the second uses what the first has left
        for (int i = 0; i < 4; ++i) {
            timer->mark();
            kernels::fill(stream, this->on(this->x), 1);
        }
        const std::vector<double> seconds = timer->take();
        EXPECT_THAT(seconds, testing::SizeIs(3));
        EXPECT_THAT(seconds, testing::Each(testing::AllOf(testing::Ge(0), testing::Lt(60))));
    }
    timer->mark();
    EXPECT_TRUE(timer->take().empty());
    EXPECT_TRUE(timer->take().empty());
}

TEST(TimerOnTheCpu, CountsTheTimeBetween) {
    const auto timer = make_timer(CpuStream());
    timer->mark();
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    timer->mark();
    timer->mark();
    const std::vector<double> seconds = timer->take();
    EXPECT_GE(seconds.at(0), 0.02);
    EXPECT_LT(seconds.at(1), 0.02);
}

} // namespace timer_test
