// SPDX-License-Identifier: Apache-2.0
// Saving and loading checkpoints of the states of a GPT beside what the machine can do at best, in one run:
//
//   bench_checkpoint FOLDER [ROUNDS]
//
// A save beside dd with oflag=direct conv=fsync into the same folder, that of two ranks beside two such dd of half the
// bytes at once; what a step waits for an asynchronous save beside a plain copy of the bytes; a load from a cold cache
// beside dd with iflag=direct; a load in other boxes beside one in the boxes that were saved. The figures are medians;
// checksums are always on. Rounds take turns, because disks drift.
#include "core/checkpoint/checkpoint_writer.hpp"
#include "core/run/snapshot.hpp"
#include "kernels/memory.hpp"
#include "tests/core/checkpoint_team.hpp"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fcntl.h>
#include <sys/statvfs.h>
#include <unistd.h>

using namespace tessera;
namespace fs = std::filesystem;

namespace {

double seconds_of(const std::function<void()>& work) {
    const auto begin = std::chrono::steady_clock::now();
    work();
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

double median(std::vector<double> values) {
    std::sort(values.begin(), values.end());
    return values[values.size() / 2];
}

// Weights and two moments, all f32.
struct State {
    std::vector<std::pair<std::string, Shape>> tensors;
    std::int64_t bytes = 0;

    State(std::int64_t layers, std::int64_t dim, std::int64_t vocabulary, std::int64_t positions) {
        for (const char* kind : {"", "optimizer.first_moment/", "optimizer.second_moment/"}) {
            add(fmt::format("{}embedding", kind), {vocabulary, dim});
            add(fmt::format("{}positions", kind), {positions, dim});
            for (std::int64_t layer = 0; layer < layers; ++layer) {
                const std::string name = fmt::format("{}layers.{}.", kind, layer);
                for (const auto& [part, shape] : std::vector<std::pair<std::string, Shape>>{{"norm1.scale", {dim}},
                                                                                            {"norm1.bias", {dim}},
                                                                                            {"qkv", {3 * dim, dim}},
                                                                                            {"qkv.bias", {3 * dim}},
                                                                                            {"out", {dim, dim}},
                                                                                            {"out.bias", {dim}},
                                                                                            {"norm2.scale", {dim}},
                                                                                            {"norm2.bias", {dim}},
                                                                                            {"up", {4 * dim, dim}},
                                                                                            {"up.bias", {4 * dim}},
                                                                                            {"down", {dim, 4 * dim}},
                                                                                            {"down.bias", {dim}}})
                    add(name + part, shape);
            }
        }
    }

    void add(const std::string& name, const Shape& shape) {
        tensors.emplace_back(name, shape);
        bytes += shape.count() * 4;
    }
};

// One rank's rows of every tensor, one behind the other.
struct Share {
    Buffer memory;
    std::vector<TensorPart> parts;

    Share(const State& state, int rank, int ranks) {
        for (const auto& [name, whole] : state.tensors) {
            const std::int64_t begin = whole[0] * rank / ranks, end = whole[0] * (rank + 1) / ranks;
            Shape box = whole;
            box.set(0, end - begin);
            std::vector<std::int64_t> start(static_cast<std::size_t>(whole.rank()), 0);
            start[0] = begin;
            parts.push_back({name, whole, DType::f32, start, ConstView(nullptr, box, DType::f32)});
        }
        std::int64_t bytes = 0;
        for (const TensorPart& part : parts)
            bytes += align_up(part.data.bytes());
        memory = Buffer(bytes);
        std::byte* place = memory.data();
        for (TensorPart& part : parts) {
            std::memset(place, 0x3c, static_cast<std::size_t>(part.data.bytes()));
            part.data = ConstView(place, part.data.shape, DType::f32);
            place += align_up(part.data.bytes());
        }
    }

    void load(const std::string& folder) const {
        const Checkpoint checkpoint(folder);
        for (const TensorPart& part : parts)
            checkpoint.read(part.name, part.start,
                            View(const_cast<void*>(part.data.data), part.data.shape, part.data.dtype));
    }
};

void shell(const std::string& command) {
    if (std::system(command.c_str()) != 0) throw std::runtime_error(command);
}

// So that the next read comes from the disk.
void forget(const std::string& folder) {
    for (const fs::directory_entry& entry : fs::directory_iterator(folder)) {
        const int file = ::open(entry.path().c_str(), O_RDONLY);
        ::fsync(file);
        posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED);
        ::close(file);
    }
}

void check(const std::vector<std::string>& failures) {
    for (const std::string& failure : failures)
        if (!failure.empty()) throw std::runtime_error(failure);
}

struct Bench {
    const State& state;
    std::string folder;
    int rounds;
    std::map<std::string, std::vector<double>> times;

    void measure(const std::string& name, const std::function<void()>& work) {
        times[name].push_back(seconds_of(work));
    }

    // Ranks of a run, which draw their files at the first save only.
    struct Writers {
        std::vector<Team> teams; // of the save under way
        std::vector<std::unique_ptr<CheckpointWriter>> of_rank;

        Writers(const std::string& folder, std::size_t ranks) : teams(ranks) {
            for (std::size_t rank = 0; rank < ranks; ++rank) {
                const auto now = [this, rank]() -> const Team& { return teams[rank]; };
                const Team team{static_cast<int>(rank), static_cast<int>(ranks),
                                [=](const std::string& text) { return now().gather(text); },
                                [=](const std::string& text) { return now().broadcast(text); },
                                [=](bool word) { return now().all(word); }};
                of_rank.push_back(std::make_unique<CheckpointWriter>(team, folder, Retention{}));
            }
        }
    };

    static void save(const std::vector<std::unique_ptr<Share>>& shares, Writers& writers, std::int64_t step) {
        check(run_team(static_cast<int>(shares.size()), [&](const Team& team) {
            const auto rank = static_cast<std::size_t>(team.rank);
            writers.teams[rank] = team;
            writers.of_rank[rank]->begin({step, {}, shares[rank]->parts});
            writers.of_rank[rank]->finish();
        }));
    }

    std::vector<std::unique_ptr<Share>> shared_among(int ranks) const {
        std::vector<std::unique_ptr<Share>> shares;
        for (int rank = 0; rank < ranks; ++rank)
            shares.push_back(std::make_unique<Share>(state, rank, ranks));
        return shares;
    }

    void load(const std::vector<std::unique_ptr<Share>>& shares, const std::string& path) const {
        check(run_team(static_cast<int>(shares.size()),
                       [&](const Team& team) { shares[static_cast<std::size_t>(team.rank)]->load(path); }));
    }

    // One rank that trains on: the copy, and what else stands between a step and the next.
    void stall(const Share& share, CheckpointWriter& writer, Snapshot& snapshot, std::byte* plain, std::int64_t step) {
        measure("copy",
                [&] { std::memcpy(plain, share.memory.data(), static_cast<std::size_t>(share.memory.bytes())); });
        CheckpointContent content{step, {{"config", "x"}}, share.parts};
        measure("stall", [&] {
            snapshot.take(content.tensors);
            writer.begin(std::move(content));
        });
        measure("written beside", [&] { writer.finish(); });
    }

    void run() {
        const auto one = shared_among(1), two = shared_among(2), three = shared_among(3);
        Stream stream = CpuStream(1);
        Snapshot snapshot(stream, Buffer(Snapshot::bytes_for(one[0]->parts)));
        Buffer plain(one[0]->memory.bytes());
        std::memset(plain.data(), 0, static_cast<std::size_t>(plain.bytes()));
        CheckpointWriter writer(team_of_one(), folder, {1, 0});
        const std::string file = folder + "/dd", path = fmt::format("{}/step-{:08d}", folder, 0);
        Writers writers_of_one(folder, 1), writers_of_two(folder, 2), writers_of_three(folder, 3);
        const auto dd = [&](const std::string& name, std::int64_t bytes) {
            return fmt::format("dd bs=4M status=none iflag=fullblock if=/dev/zero of={} count={} iflag=count_bytes "
                               "oflag=direct conv=fsync",
                               name, bytes / 4096 * 4096);
        };
        for (int round = 0; round <= rounds; ++round) {
            if (round == 1) times.clear(); // the first warms up
            measure("dd write", [&] { shell(dd(file, state.bytes)); });
            fs::remove(file);
            measure("two dd write", [&] {
                shell(fmt::format("{} & {} && wait $!", dd(file, state.bytes / 2), dd(file + "2", state.bytes / 2)));
            });
            fs::remove(file);
            fs::remove(file + "2");
            measure("save, 1 rank", [&] { save(one, writers_of_one, 1); });
            fs::remove_all(folder + "/step-00000001");
            fs::remove_all(path); // the time to remove it is none of the save's, nor of dd's above
            measure("save, 2 ranks", [&] { save(two, writers_of_two, 0); });
            stall(*one[0], writer, snapshot, plain.data(), 2 + round);
            fs::remove_all(fmt::format("{}/step-{:08d}", folder, 2 + round));
            if (round == 0 || !fs::exists(path)) save(two, writers_of_two, 0);
            forget(path);
            measure("dd read", [&] {
                for (const char* rank : {"rank-00000.h5", "rank-00001.h5"})
                    shell(fmt::format("dd bs=4M status=none iflag=direct if={}/{} of=/dev/null", path, rank));
            });
            forget(path);
            measure("load cold, 1 rank", [&] { load(one, path); });
            forget(path);
            measure("load cold, 2 ranks", [&] { load(two, path); });
            measure("load, 2 of 2", [&] { load(two, path); });
            measure("load, 3 of 2", [&] { load(three, path); });
            measure("load, 1 of 2", [&] { load(one, path); });
            // The same ranks, each what it saved.
            fs::remove_all(path);
            save(three, writers_of_three, 0);
            load(three, path);
            measure("load, 3 of 3", [&] { load(three, path); });
            fs::remove_all(path);
            save(one, writers_of_one, 0);
            load(one, path);
            measure("load, 1 of 1", [&] { load(one, path); });
            fs::remove_all(path);
        }
    }

    void report() const {
        std::printf("state of %.1f MB, %zu tensors, %d rounds\n", static_cast<double>(state.bytes) / 1e6,
                    state.tensors.size(), rounds);
        for (const auto& [name, seconds] : times)
            std::printf("  %-20s %9.4f s  (%.4f to %.4f)  %6.2f GB/s\n", name.c_str(), median(seconds),
                        *std::min_element(seconds.begin(), seconds.end()),
                        *std::max_element(seconds.begin(), seconds.end()),
                        static_cast<double>(state.bytes) / 1e9 / median(seconds));
        const auto ratio = [&](const char* what, const char* of) {
            std::vector<double> ratios;
            for (std::size_t i = 0; i < times.at(what).size(); ++i)
                ratios.push_back(times.at(what)[i] / times.at(of)[i]);
            return median(ratios);
        };
        std::printf("  speed of a save: %.2f of dd's (1 rank), %.2f of two dd's, %.2f of one's (2 ranks)\n",
                    1 / ratio("save, 1 rank", "dd write"), 1 / ratio("save, 2 ranks", "two dd write"),
                    1 / ratio("save, 2 ranks", "dd write"));
        std::printf("  stall of an asynchronous save: %.2f of a copy's time\n", ratio("stall", "copy"));
        std::printf("  speed of a cold load: %.2f of dd's (1 rank), %.2f (2 ranks)\n",
                    1 / ratio("load cold, 1 rank", "dd read"), 1 / ratio("load cold, 2 ranks", "dd read"));
        std::printf("  time of a load in other boxes: %.2f (3 ranks of 2 / 3 of 3), %.2f (1 of 2 / 1 of 1)\n",
                    ratio("load, 3 of 2", "load, 3 of 3"), ratio("load, 1 of 2", "load, 1 of 1"));
    }
};

} // namespace

int main(int argc, char** argv) {
    if (argc < 2) {
        std::fprintf(stderr, "usage: bench_checkpoint FOLDER [ROUNDS]\n");
        return 2;
    }
    const int rounds = argc > 2 ? std::atoi(argv[2]) : 7;
    for (const State& state : {State(4, 132, 1024, 256), State(12, 768, 50257, 1024)}) {
        const ScratchFolder scratch(std::string(argv[1]) + "/tessera-bench-");
        Bench bench{state, scratch.path(), rounds, {}};
        bench.run();
        bench.report();
        std::fflush(stdout);
    }
    return 0;
}
