// SPDX-License-Identifier: Apache-2.0
// Convolutions of 3 x 3 by Winograd's products of patches, against plain loops in double.
#include "tests/kernels/convolution_sums.hpp"

#include "kernels/cpu/winograd.hpp"

using namespace tessera;

namespace convolution_test {

namespace {

// What 16 products of transformed patches make, in each way to cut them: filters or patches whole, sums over all quads
// or of a panel at a time, in one piece and in several, the last ones short; a last panel of 16 filters; odd sizes.
std::vector<Convolution> cases_of_quads() {
    const WindowDim three{.size = 3, .before = 1, .after = 1};
    return {{2, 17, 19, 48, 48, 1, {three, three}},
            {1, 16, 17, 192, 32, 1, {three, three}},
            {1, 15, 16, 144, 80, 1, {three, three}},
            {1, 25, 26, 32, 96, 1, {three, three}},
            {2, 13, 12, 32, 48, 1, {{3, 1, 1, 0, 2}, {3, 1, 1, 2, 1}}}};
}

} // namespace

TEST(ConvolutionsByQuads, AreSumsOverTheirWindows) {
    for (const Convolution& c : cases_of_quads()) {
        SCOPED_TRACE(testing::Message() << c.channels << " to " << c.filters);
        ASSERT_TRUE(kernels::is_winograd(kernels::forward_pass(c, DType::f32)));
        ASSERT_TRUE(kernels::is_winograd(kernels::gradient_pass(c, 0, 0, DType::f32)));
        OnCpu on;
        expect_forward(on, c, DType::f32, c.channels == 48);
        expect_input_gradient(on, c, DType::f32);
        expect_weight_gradient(on, c, DType::f32);
    }
}

TEST(ConvolutionsByQuads, NothingBehindAnOperandIsTouched) {
    for (const Convolution& c : cases_of_quads())
        expect_nothing_behind_is_touched(c, DType::f32);
}

TEST(ConvolutionsByQuads, TheSameBitsForAnyThreads) {
    for (const Convolution& c : cases_of_quads())
        expect_same_bits(c, DType::f32);
}

} // namespace convolution_test
