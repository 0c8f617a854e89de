// SPDX-License-Identifier: Apache-2.0
// The peak is plausible, or said to be unknown.
#include "kernels/peak.hpp"

#include "tests/support/device.hpp"

using namespace tessera;

namespace peak_test {

template <class Device> class Peak : public testing::Test {};
TYPED_TEST_SUITE(Peak, Devices, DeviceNames);

TYPED_TEST(Peak, IsPlausibleOrUnknown) {
    TypeParam on;
    const double peak = kernels::peak_flops(on.stream());
    const bool gpu = !std::is_same_v<TypeParam, OnCpu>;
    EXPECT_TRUE((gpu && peak == 0) || (peak > (gpu ? 1e13 : 1e8) && peak < 1e17)) << peak;
}

} // namespace peak_test
