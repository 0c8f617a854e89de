// SPDX-License-Identifier: Apache-2.0
// Memory that the ranks of a host share is there whatever signals come while they agree on it.
#include "parallel/communication/shared_region.hpp"

#include "tests/support/mpi_main.hpp"

#include <csignal>
#include <gtest/gtest.h>
#include <sys/time.h>

using namespace tessera;

namespace shared_region_test {

TEST(SharedRegion, SignalsInterruptNoWait) {
    const auto before = std::signal(SIGALRM, [](int) {});
    itimerval often{{0, 50}, {0, 50}};
    setitimer(ITIMER_REAL, &often, nullptr);
    for (int round = 0; round < 100; ++round)
        EXPECT_NO_THROW(SharedRegion(test::world().group(), 4096));
    often = {};
    setitimer(ITIMER_REAL, &often, nullptr);
    std::signal(SIGALRM, before);
}

} // namespace shared_region_test
