// SPDX-License-Identifier: Apache-2.0
// The main function of test programs under mpirun: a failure on one rank is a failure of the run. Only rank 0 reports
// progress; every rank prints its own failures.
#include "tests/support/mpi_main.hpp"

#include <cstdio>
#include <gtest/gtest.h>

namespace {

tessera::World* the_world = nullptr;

class FailurePrinter : public testing::EmptyTestEventListener {
    void OnTestPartResult(const testing::TestPartResult& result) override {
        if (result.failed())
            std::fprintf(stderr, "rank %d: %s:%d: %s\n", the_world->rank(), result.file_name(), result.line_number(),
                         result.message());
    }
};

} // namespace

tessera::World& tessera::test::world() { return *the_world; }

int main(int argc, char** argv) {
    tessera::World world;
    the_world = &world;
    testing::InitGoogleTest(&argc, argv);
    GTEST_FLAG_SET(catch_exceptions, false); // it ends the process, and with it the run, which would otherwise wait
    if (world.rank() != 0) {
        auto& listeners = testing::UnitTest::GetInstance()->listeners();
        delete listeners.Release(listeners.default_result_printer());
        listeners.Append(new FailurePrinter);
    }
    const bool good = RUN_ALL_TESTS() == 0;
    return world.group().all(good) ? 0 : 1;
}
