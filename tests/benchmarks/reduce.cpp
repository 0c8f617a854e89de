// SPDX-License-Identifier: Apache-2.0
// How long the reproducible reduction takes beside MPI_Allreduce: mpirun -n 2 bench_reduce. Medians over rounds in
// which the variants take turns; the slowest rank counts.
#include "parallel/communication/groups.hpp"
#include "parallel/communication/mpi.hpp"
#include "parallel/communication/shared_memory.hpp"
#include "parallel/communication/world.hpp"

#include <algorithm>
#include <chrono>
#include <fmt/format.h>
#include <functional>
#include <mpi.h>
#include <string>
#include <vector>

using namespace tessera;

namespace {

struct Variant {
    std::string name;
    std::function<void()> run;
    std::vector<double> microseconds = {};

    double median() {
        const auto middle = microseconds.begin() + static_cast<std::ptrdiff_t>(microseconds.size() / 2);
        std::nth_element(microseconds.begin(), middle, microseconds.end());
        return *middle;
    }
};

// The mean of `repeats` calls on the slowest rank.
double time(const std::function<void()>& run, int repeats) {
    MPI_Barrier(MPI_COMM_WORLD);
    const auto start = std::chrono::steady_clock::now();
    for (int i = 0; i < repeats; ++i)
        run();
    double own = std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start).count() / repeats;
    double slowest = 0;
    MPI_Allreduce(&own, &slowest, 1, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD);
    return slowest;
}

void measure(const World& world, std::int64_t bytes, int rounds, int repeats) {
    const auto everyone = [&] { return world.group().split(0, world.rank()); };
    const auto shared = make_shared_memory_communicator(everyone());
    const auto messages = make_mpi_communicator(everyone());
    const Buffer workspace(messages->workspace_bytes(Collective::all_reduce, bytes));
    messages->use_workspace(View(workspace.data(), Shape{workspace.bytes() / 4}, DType::f32));
    const SummationTree tree(world.size(), world.size());
    Stream stream = CpuStream(1);

    const Buffer window = shared->allocate(stream, bytes);
    const Buffer memory(bytes);
    const Shape shape{bytes / 4};
    std::fill_n(reinterpret_cast<float*>(memory.data()), bytes / 4, 0.0f); // zeros: sums stay finite
    const View private_view(memory.data(), shape, DType::f32);
    std::vector<Variant> variants = {
        {"MPI_Allreduce",
         [&] {
             MPI_Allreduce(MPI_IN_PLACE, memory.data(), static_cast<int>(bytes / 4), MPI_FLOAT, MPI_SUM,
                           MPI_COMM_WORLD);
         }},
        {"tree_reduce, mpi", [&] { messages->tree_reduce(stream, private_view, tree); }},
        {"tree_reduce, shared memory, staged", [&] { shared->tree_reduce(stream, private_view, tree); }},
        {"tree_reduce, shared memory",
         [&] { shared->tree_reduce(stream, View(window.data(), shape, DType::f32), tree); }},
        {"barrier, MPI", [] { MPI_Barrier(MPI_COMM_WORLD); }},
        {"barrier, shared memory", [&] { shared->barrier(stream); }},
    };
    for (Variant& variant : variants)
        time(variant.run, 1);
    for (int round = 0; round < rounds; ++round)
        for (Variant& variant : variants)
            variant.microseconds.push_back(time(variant.run, repeats));
    if (world.rank() != 0) return;
    const double reference = variants[0].median();
    for (Variant& variant : variants)
        fmt::print("{:>10} bytes, {} ranks  {:<36} {:>10.1f} us  {:>6.2f} x\n", bytes, world.size(), variant.name,
                   variant.median(), reference / variant.median());
}

} // namespace

int main() {
    const World world;
    measure(world, 3'200'000, 41, 5);
    measure(world, 64'000'000, 15, 1);
}
