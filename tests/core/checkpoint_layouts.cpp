// SPDX-License-Identifier: Apache-2.0
// Any layout reads what any layout has saved, bit for bit, and each rank reads no more than the slabs that its boxes
// meet.
#include "core/checkpoint/manifest.hpp"
#include "core/run/held_part.hpp"
#include "core/run/weights.hpp"
#include "tests/core/checkpoint_team.hpp"
#include "tests/core/tiny_gpt.hpp"

#include <gtest/gtest.h>

using namespace tessera;

namespace {

using Words = std::vector<std::string>;

struct SavedLayout {
    std::string name;
    int ranks;
    Words words;
};

const std::string tensor = "parallelism.tensor_parallel_degree=2", pipeline = "parallelism.pipeline_parallel_degree=2",
                  expert = "parallelism.expert_parallel_degree=2", context = "parallelism.context_parallel_degree=2",
                  sequence = "parallelism.sequence_parallel=true", zero = "parallelism.zero_stage=";

const std::vector<SavedLayout> layouts = {
    {"one rank", 1, {}},
    {"data 3", 3, {}},
    {"data 2, ZeRO 1", 2, {zero + "1"}},
    {"data 2, ZeRO 2", 2, {zero + "2"}},
    {"data 4, ZeRO 3", 4, {zero + "3"}},
    {"tensor 2", 2, {tensor}},
    {"tensor 2, sequence", 2, {tensor, sequence}},
    {"pipeline 2", 2, {pipeline}},
    {"expert 2", 2, {expert}},
    {"context 2, data 2", 4, {context}},
    {"data 2, tensor 2, ZeRO 1", 4, {tensor, zero + "1"}},
    {"pipeline 2, data 2, ZeRO 2", 4, {pipeline, zero + "2"}},
    {"expert 2, tensor 2", 4, {expert, tensor}},
};

// What one rank holds between steps, without an executor: memory of the planned sizes.
struct HeldState {
    Experiment experiment;
    const Program& program = experiment.train;
    std::map<ValueId, BoxMemory> memory;

    HeldState(const SavedLayout& layout, int rank) : experiment(plan_tiny(all_words(layout), rank, layout.ranks)) {
        for (const ValueId id : ids()) {
            const TensorType seen = program.plan.seen(id, Phase::update);
            memory.emplace(id, BoxMemory({}, seen.shape, seen.dtype));
        }
    }

    // Wide enough for ZeRO, which keeps 4096 elements together, to cut it.
    static Words all_words(const SavedLayout& layout) {
        Words words = {"model.moe_experts=4", "model.moe_every=2", "model.n_heads=4", "model.dim=48",
                       "training.local_batch_size=4"};
        words.insert(words.end(), layout.words.begin(), layout.words.end());
        return words;
    }

    std::vector<ValueId> ids() const {
        const Graph& graph = program.model.graph;
        std::vector<ValueId> all = graph.of_kind(ValueKind::parameter);
        const std::vector<ValueId> states = graph.of_kind(ValueKind::optimizer_state);
        all.insert(all.end(), states.begin(), states.end());
        return all;
    }

    ViewOf view_of() {
        return [this](ValueId id) { return memory.at(id).view(); };
    }

    // Calls use(tensor's number, place in the whole tensor, address) for each element that the rank holds.
    void each_held(const std::function<void(std::uint32_t, std::int64_t, std::byte*)>& use) {
        std::uint32_t number = 0;
        for (const ValueId id : ids()) {
            ++number;
            std::byte* address = memory.at(id).bytes.data();
            for (const Box& held : part_at_rest(program, id).boxes) {
                std::vector<std::int64_t> start;
                for (const Range& range : held.ranges)
                    start.push_back(range.begin);
                BoxMemory box(start, held.shape(), DType::f32);
                each_element(program.model.graph.value(id).type.shape, box, [&](std::int64_t place, std::byte* in_box) {
                    use(number, place, address + (in_box - box.bytes.data()));
                });
                address += box.bytes.size();
            }
        }
    }

    void fill() {
        each_held([](std::uint32_t number, std::int64_t place, std::byte* address) {
            const std::uint32_t bits = element_bits(number, place);
            std::memcpy(address, &bits, sizeof bits);
        });
    }

    std::int64_t wrong() {
        std::int64_t count = 0;
        each_held([&](std::uint32_t number, std::int64_t place, std::byte* address) {
            const std::uint32_t bits = element_bits(number, place);
            count += std::memcmp(address, &bits, sizeof bits) != 0;
        });
        return count;
    }

    void forget() {
        for (auto& [id, box] : memory)
            std::fill(box.bytes.begin(), box.bytes.end(), std::byte{0xff});
    }

    // Of the slabs that the rank's boxes meet, by comparing each with each.
    std::int64_t bytes_met(const Manifest& manifest) {
        std::int64_t bytes = 0;
        for (const ValueId id : ids())
            for (const TensorEntry& saved : manifest.tensors)
                if (saved.name == program.model.graph.value(id).name)
                    for (const Box& held : part_at_rest(program, id).boxes)
                        for (const Slab& slab : saved.slabs) {
                            TensorBox box{{}, held.shape()};
                            for (const Range& range : held.ranges)
                                box.start.push_back(range.begin);
                            if (intersection(box, slab.box).count.count() > 0) bytes += slab.box.count.count() * 4;
                        }
        return bytes;
    }
};

} // namespace

TEST(CheckpointLayouts, AnyReadsWhatAnyHasSaved) {
    const ScratchFolder scratch;
    std::vector<std::vector<std::unique_ptr<HeldState>>> states;
    for (const SavedLayout& layout : layouts) {
        states.emplace_back();
        for (int rank = 0; rank < layout.ranks; ++rank)
            states.back().push_back(std::make_unique<HeldState>(layout, rank));
    }
    for (std::size_t from = 0; from < layouts.size(); ++from) {
        const std::vector<std::string> failures = run_team(layouts[from].ranks, [&](const Team& team) {
            HeldState& state = *states[from][static_cast<std::size_t>(team.rank)];
            state.fill();
            save_checkpoint(
                team, scratch.path(),
                {static_cast<std::int64_t>(from), {}, parts_to_save(state.program, state.view_of(), team.rank)});
        });
        ASSERT_EQ(failures, std::vector<std::string>(failures.size())) << layouts[from].name;
        const std::string folder = fmt::format("{}/step-{:08d}", scratch.path(), from);
        const Manifest manifest = parse_manifest(text_of_file(folder + "/MANIFEST"), folder);
        std::int64_t bytes = 0;
        for (const TensorEntry& saved : manifest.tensors)
            bytes += saved.whole.count() * 4;
        ASSERT_GT(bytes, 1'000'000);
        for (std::size_t to = 0; to < layouts.size(); ++to)
            for (std::unique_ptr<HeldState>& state : states[to]) {
                const std::string which = fmt::format("saved on {}, read on {}", layouts[from].name, layouts[to].name);
                const Checkpoint checkpoint(folder);
                state->forget();
                Stream stream = CpuStream(1);
                restore_tensors(checkpoint, state->program, state->view_of(), stream);
                ASSERT_EQ(state->wrong(), 0) << which;
                ASSERT_EQ(checkpoint.bytes_read(), state->bytes_met(manifest)) << which;
                std::int64_t held = 0;
                state->each_held([&](auto...) { held += 4; });
                ASSERT_GT(held, 0) << which;
                if (from == to && held < bytes) { // what it has saved itself, and its share of what others hold too
                    ASSERT_LT(checkpoint.bytes_read(), bytes) << which;
                }
            }
    }
}
