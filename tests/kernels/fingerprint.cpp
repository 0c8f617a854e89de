// SPDX-License-Identifier: Apache-2.0
// Fingerprints: the formula, every bit of every element counts, and so do places.
#include "kernels/fingerprint.hpp"

#include "kernels/error.hpp"
#include "tests/support/device.hpp"

#include <algorithm>
#include <gmock/gmock.h>
#include <set>

using namespace tessera;

namespace fingerprint_test {
using testing::HasSubstr;
using testing::ThrowsMessage;

namespace {

template <class Device> class Fingerprints : public testing::Test {};
TYPED_TEST_SUITE(Fingerprints, Devices, DeviceNames);

std::uint64_t plain(const Sample& x) {
    std::uint64_t sum = 0;
    for (std::int64_t i = 0; i < x.count(); ++i) {
        std::uint32_t bits = 0;
        std::memcpy(&bits, x.view().as<float>() + i, sizeof bits);
        std::uint64_t mixed = static_cast<std::uint64_t>(i) * 0x9e3779b97f4a7c15u + bits * 0xd6e8feb86659fd93u;
        mixed = (mixed ^ (mixed >> 30)) * 0xbf58476d1ce4e5b9u;
        mixed = (mixed ^ (mixed >> 27)) * 0x94d049bb133111ebu;
        sum += mixed ^ (mixed >> 31);
    }
    return sum;
}

template <class Device> std::vector<std::uint64_t> fingerprints(const std::vector<const Sample*>& samples) {
    Device on;
    std::vector<View> views;
    for (const Sample* sample : samples)
        views.push_back(on(*sample));
    const auto count = static_cast<std::int64_t>(samples.size());
    const Sample sums({count, 2}, DType::i32);
    kernels::fingerprints(on.stream(), views, on(sums));
    on.finish();
    std::vector<std::uint64_t> result(samples.size());
    std::memcpy(result.data(), sums.view().memory(), samples.size() * sizeof(std::uint64_t));
    return result;
}

} // namespace

TYPED_TEST(Fingerprints, AreTheFormulas) {
    const Sample none({0}, DType::f32), one({1}, DType::f32, 1), some({300, 7}, DType::f32, 2),
        many({40000}, DType::f32, 3);
    EXPECT_EQ(fingerprints<TypeParam>({&none, &one, &some, &many}),
              (std::vector<std::uint64_t>{0, plain(one), plain(some), plain(many)}));
}

TYPED_TEST(Fingerprints, SeeEveryBitAndEveryPlace) {
    const Sample x({5}, DType::f32, 1);
    std::set<std::uint64_t> seen{fingerprints<TypeParam>({&x})[0]};
    for (int bit = 0; bit < 5 * 32; ++bit) {
        const Sample flipped(x);
        static_cast<std::int32_t*>(flipped.view().memory())[bit / 32] ^= static_cast<std::int32_t>(1u << bit % 32);
        seen.insert(fingerprints<TypeParam>({&flipped})[0]);
    }
    Sample swapped(x);
    swapped.set(0, x[1]);
    swapped.set(1, x[0]);
    seen.insert(fingerprints<TypeParam>({&swapped})[0]);
    EXPECT_EQ(seen.size(), 5 * 32 + 2);
}

TYPED_TEST(Fingerprints, WantWholeWords) {
    const Sample half({4}, DType::bf16);
    EXPECT_THAT([&] { fingerprints<TypeParam>({&half}); },
                ThrowsMessage<InternalError>(HasSubstr("fingerprints: element type bf16")));
}

} // namespace fingerprint_test
