// SPDX-License-Identifier: Apache-2.0
// A communicator for each pair in turn, as the axes of a run would have it.
#include "core/run/measure_pairs.hpp"

#include "kernels/memory.hpp"
#include "parallel/communication/make_communicator.hpp"

#include <algorithm>
#include <chrono>
#include <fmt/format.h>
#include <limits>

namespace tessera {
namespace {

constexpr int all_pairs_until = 16, sampled_rounds = 8;
constexpr std::int64_t pair_bytes = 4 << 20, pair_message = 8;
constexpr int pair_attempts = 5; // of which the best counts

double seconds_of(Communicator& pair, Stream& stream, const View& buffer, int repeats) {
    double best = std::numeric_limits<double>::infinity();
    for (int attempt = 0; attempt < pair_attempts; ++attempt) {
        pair.barrier(stream);
        pair.wait(stream);
        const auto begin = std::chrono::steady_clock::now();
        for (int i = 0; i < repeats; ++i)
            pair.all_reduce(stream, buffer, Reduction::sum);
        pair.wait(stream);
        best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
    }
    return best / repeats;
}

PairRate measure(Communicator& pair, Stream& stream) {
    Buffer buffer = pair.allocate(stream, pair_bytes);
    const std::int64_t scratch = pair.workspace_bytes(Collective::all_reduce, pair_bytes) / 4 * 4 + 4;
    Buffer workspace = std::visit([&](const auto& s) { return allocate(s, scratch); }, stream);
    pair.use_workspace(View(workspace.data(), {scratch / 4}, DType::f32));
    const auto floats = [&](std::int64_t bytes) { return View(buffer.data(), {bytes / 4}, DType::f32); };
    const double slow = seconds_of(pair, stream, floats(pair_bytes), 2);
    return {0, 0, static_cast<double>(pair_bytes) / slow, seconds_of(pair, stream, floats(pair_message), 16)};
}

} // namespace

int rounds_of(int ranks) { return ranks < 2 ? 0 : (ranks + 1) / 2 * 2 - 1; }

std::vector<std::pair<int, int>> pairs_of_round(int ranks, int round) {
    const int circle = rounds_of(ranks); // ranks but the last; of an odd number, who meets the missing one rests
    std::vector<std::pair<int, int>> pairs;
    const auto add = [&](int a, int b) {
        if (std::max(a, b) < ranks) pairs.emplace_back(std::min(a, b), std::max(a, b));
    };
    if (circle > 0) add(circle, round);
    for (int k = 1; k <= circle / 2; ++k)
        add((round + k) % circle, (round - k + circle) % circle);
    return pairs;
}

std::vector<PairRate> measure_pairs(const World& world, Stream& stream) {
    std::vector<PairRate> mine;
    const int all = rounds_of(world.size());
    const int rounds = world.size() <= all_pairs_until ? all : sampled_rounds;
    for (int i = 0; i < rounds; ++i) {
        std::pair<int, int> pair{world.rank(), world.rank()};
        for (const auto& one : pairs_of_round(world.size(), i * (all / rounds)))
            if (one.first == world.rank() || one.second == world.rank()) pair = one;
        const std::unique_ptr<Communicator> both =
            make_communicator(world.group().split(pair.first, world.rank()),
                              fmt::format("{} and {}", pair.first, pair.second), stream, true);
        if (both->size() == 1) continue;
        PairRate rate = measure(*both, stream);
        rate.one = pair.first;
        rate.other = pair.second;
        if (pair.first == world.rank()) mine.push_back(rate);
    }
    return mine;
}

} // namespace tessera
