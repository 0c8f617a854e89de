// SPDX-License-Identifier: Apache-2.0
// The main function of the test programs without MPI.
#include <gtest/gtest.h>

int main(int argc, char** argv) {
    testing::InitGoogleTest(&argc, argv);
    return RUN_ALL_TESTS();
}
