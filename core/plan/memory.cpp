// SPDX-License-Identifier: Apache-2.0
// Memory planning: which nodes run, how long each value lives, and where it lies meanwhile.
#include "kernels/memory.hpp"
#include "core/plan/passes.hpp"
#include "kernels/error.hpp"

#include <algorithm>
#include <limits>
#include <numeric>

namespace tessera {

std::vector<std::int32_t> live_nodes(const Graph& graph) {
    std::vector<bool> needed(graph.values().size());
    for (std::size_t i = 0; i < needed.size(); ++i)
        needed[i] = graph.values()[i].accumulated;
    for (const ValueId id : graph.kept())
        needed[static_cast<std::size_t>(id)] = true;

    std::vector<std::int32_t> live;
    for (auto index = static_cast<std::int32_t>(graph.nodes().size()) - 1; index >= 0; --index) {
        const Node& node = graph.nodes()[static_cast<std::size_t>(index)];
        const bool runs = !node.op->writes().empty() ||
                          std::any_of(node.outputs.begin(), node.outputs.end(),
                                      [&](ValueId output) { return needed[static_cast<std::size_t>(output)]; });
        if (!runs) continue;
        live.push_back(index);
        for (const ValueId input : node.inputs)
            needed[static_cast<std::size_t>(input)] = true;
    }
    std::reverse(live.begin(), live.end());
    std::stable_sort(live.begin(), live.end(), [&](std::int32_t a, std::int32_t b) {
        return graph.nodes()[static_cast<std::size_t>(a)].phase < graph.nodes()[static_cast<std::size_t>(b)].phase;
    });
    return live;
}

namespace {

constexpr std::int64_t for_ever = std::numeric_limits<std::int64_t>::max();

// Values that share one piece of the activations' memory because each took over the one before, and when it is taken.
struct Tenant {
    std::vector<ValueId> values;
    std::int64_t bytes = 0;
    std::int64_t first = 0; // times are positions in the order of the nodes
    std::int64_t last = 0;
    int chunk = -1; // whose frames it lives in; -1: in no frame
    std::int64_t offset = -1;

    bool meets(const Tenant& other) const { return first <= other.last && other.first <= last; }
};

class Tenants {
public:
    Tenants(const Graph& graph, const std::vector<std::int32_t>& order, const Plan& plan)
        : graph_(graph), order_(order), plan_(plan), last_use_(graph.values().size(), -1),
          tenant_of_(graph.values().size(), -1) {
        find_last_uses();
        const bool pipeline = !plan.frames.empty();
        for (std::size_t i = 0; i < graph.values().size(); ++i) // inputs are written before anything runs
            if (graph.values()[i].kind == ValueKind::input && (!pipeline || last_use_[i] >= 0))
                move_in(static_cast<ValueId>(i), -1);
        if (pipeline) receive();
        for (std::size_t time = 0; time < order.size(); ++time)
            place_outputs(static_cast<std::int64_t>(time));
        if (pipeline) find_frames();
    }

    // Largest first, each at the lowest offset that is free during its whole stay (greedy by size: Pisarchyk and Lee
    // 2020). Those of a chunk's frames, or of none. Returns the bytes of the whole.
    std::int64_t pack(int chunk) {
        std::vector<std::size_t> by_size;
        for (std::size_t i = 0; i < tenants_.size(); ++i)
            if (tenants_[i].chunk == chunk) by_size.push_back(i);
        std::stable_sort(by_size.begin(), by_size.end(),
                         [&](std::size_t a, std::size_t b) { return tenants_[a].bytes > tenants_[b].bytes; });
        std::vector<const Tenant*> placed; // by offset
        std::int64_t end = 0;
        for (const std::size_t index : by_size) {
            Tenant& tenant = tenants_[index];
            std::int64_t offset = 0;
            for (const Tenant* other : placed) {
                if (!tenant.meets(*other)) continue;
                if (offset + tenant.bytes <= other->offset) break;
                offset = std::max(offset, other->offset + other->bytes);
            }
            tenant.offset = offset;
            end = std::max(end, offset + tenant.bytes);
            placed.insert(std::upper_bound(placed.begin(), placed.end(), &tenant,
                                           [](const Tenant* a, const Tenant* b) { return a->offset < b->offset; }),
                          &tenant);
        }
        return end;
    }

    const std::vector<Tenant>& all() const { return tenants_; }

private:
    bool in_activations(ValueId id) const { return plan_.value(id).memory == MemoryKind::activations; }

    void find_last_uses() {
        for (std::size_t time = 0; time < order_.size(); ++time)
            for (const ValueId input : graph_.nodes()[static_cast<std::size_t>(order_[time])].inputs)
                last_use_[static_cast<std::size_t>(input)] = static_cast<std::int64_t>(time);
        for (std::size_t i = 0; i < last_use_.size(); ++i) // written once, for all micro-batches
            if (graph_.values()[i].of_step && graph_.values()[i].phase == Phase::prepare && last_use_[i] >= 0 &&
                phase_at(last_use_[i]) != Phase::prepare)
                last_use_[i] = for_ever;
        for (const ValueId id : graph_.kept())
            last_use_[static_cast<std::size_t>(id)] = for_ever;
        for (const Part& part : plan_.parts) // who takes it says when it has it
            for (const StageMessage& message : part.sends)
                last_use_[static_cast<std::size_t>(message.value)] = for_ever;
    }

    Phase phase_at(std::int64_t time) const {
        return graph_.nodes()[static_cast<std::size_t>(order_[static_cast<std::size_t>(time)])].phase;
    }

    // The time of a part's first call.
    std::int64_t begin_of(const Part& part) const {
        std::int64_t before = 0;
        for (const std::int32_t index : order_)
            before += graph_.nodes()[static_cast<std::size_t>(index)].phase < part.phase ? 1 : 0;
        return before + part.calls.begin;
    }

    // A place is kept from the forward part on: so no message waits for its receiver.
    void receive() {
        for (const Part& part : plan_.parts)
            for (const Part& later : plan_.parts)
                for (const StageMessage& message : later.receives)
                    if (part.work == Work::forward && part.chunk == later.chunk) move_in(message.value, begin_of(part));
    }

    // The part that is at work at that time; null: none of a micro-batch.
    const Part* part_at(std::int64_t time) const {
        for (const Part& part : plan_.parts)
            if (const std::int64_t begin = begin_of(part); time >= begin && time < begin + part.calls.size())
                return &part;
        return nullptr;
    }

    // What one part leaves to another, or to another stage, lives in the micro-batch's frame, and so does what is read.
    // What is written anew before each part has a place of its own.
    void find_frames() {
        for (Tenant& tenant : tenants_) {
            const Value& first = graph_.value(tenant.values.front());
            if (first.kind == ValueKind::input && first.of_step) {
                tenant.last = for_ever;
                continue;
            }
            const Part* begin = first.kind == ValueKind::input ? part_at(tenant.last) : part_at(tenant.first);
            if (begin != nullptr && (first.kind == ValueKind::input || part_at(tenant.last) != begin))
                tenant.chunk = begin->chunk;
        }
    }

    void move_in(ValueId id, std::int64_t time) {
        const auto index = static_cast<std::size_t>(id);
        tenant_of_[index] = static_cast<std::int64_t>(tenants_.size());
        tenants_.push_back({{id}, align_up(plan_.value(id).local.bytes()), time, std::max(time, last_use_[index])});
    }

    void place_outputs(std::int64_t time) {
        const Node& node = graph_.nodes()[static_cast<std::size_t>(order_[static_cast<std::size_t>(time)])];
        for (std::size_t i = 0; i < node.outputs.size(); ++i) {
            const ValueId output = node.outputs[i];
            if (!in_activations(output)) continue;
            if (i == 0 && take_over(node, output, time)) continue;
            move_in(output, time);
        }
    }

    // Output 0 in the memory of an input that dies here.
    bool take_over(const Node& node, ValueId output, std::int64_t time) {
        const int position = node.op->in_place_input();
        if (position < 0) return false;
        const ValueId input = node.inputs[static_cast<std::size_t>(position)];
        const auto index = static_cast<std::size_t>(input);
        if (!in_activations(input) || last_use_[index] != time) return false;
        Tenant& tenant = tenants_[static_cast<std::size_t>(tenant_of_[index])];
        if (tenant.values.back() != input || align_up(plan_.value(output).local.bytes()) != tenant.bytes) return false;
        tenant.values.push_back(output);
        tenant.last = std::max(time, last_use_[static_cast<std::size_t>(output)]);
        tenant_of_[static_cast<std::size_t>(output)] = tenant_of_[index];
        return true;
    }

    const Graph& graph_;
    const std::vector<std::int32_t>& order_;
    const Plan& plan_;
    std::vector<std::int64_t> last_use_; // by ValueId
    std::vector<std::int64_t> tenant_of_;
    std::vector<Tenant> tenants_;
};

// Parameters that rest as runs and are gathered once a step lie where the gathering puts them.
std::vector<ValueId> homes_of_runs(const Graph& graph, const std::vector<std::int32_t>& order) {
    std::vector<ValueId> homes(graph.values().size(), no_value);
    for (const std::int32_t index : order) {
        const Node& node = graph.nodes()[static_cast<std::size_t>(index)];
        const auto transfer = node.op->transfer();
        if (node.phase != Phase::prepare || !transfer || transfer->collective != Collective::all_gather) continue;
        if (graph.value(node.inputs[0]).kind == ValueKind::parameter)
            homes[static_cast<std::size_t>(node.inputs[0])] = node.outputs[0];
    }
    return homes;
}

// A sum that another stage of the pipeline makes: here it is what comes of it.
bool is_absent_sum(const Value& value, const Plan& plan) {
    return !plan.frames.empty() && value.accumulated && value.gradient_of == no_value;
}

} // namespace

void assign_memory(const Graph& graph, const std::vector<std::int32_t>& order, Plan& plan) {
    MemoryNeed& need = plan.memory;
    std::vector<bool> runs(graph.nodes().size());
    for (const std::int32_t node : order)
        runs[static_cast<std::size_t>(node)] = true;
    const std::vector<ValueId> homes = homes_of_runs(graph, order);
    const auto lay = [&need](PlannedValue& value) { // a home lies in its parameter's place
        if (value.offset >= 0) return;
        value.offset = need[value.memory];
        need[value.memory] += align_up(value.local.bytes());
    };
    for (std::size_t i = 0; i < plan.values.size(); ++i) { // what lives for ever lies in the order of the graph
        PlannedValue& value = plan.values[i];
        const std::int32_t producer = graph.values()[i].producer;
        const bool made = producer < 0 || runs[static_cast<std::size_t>(producer)];
        const bool has_place = made || value.local.shape.count() == 0 || is_absent_sum(graph.values()[i], plan);
        if (value.memory == MemoryKind::activations || !has_place) continue;
        if (homes[i] == no_value) {
            lay(value);
            continue;
        }
        PlannedValue& home = plan.values[static_cast<std::size_t>(homes[i])];
        lay(home);
        value.offset = home.offset + value.run.begin * bytes_of(value.local.dtype);
    }
    plan.slot_bytes = need[MemoryKind::gradients];
    need[MemoryKind::gradients] *= plan.slots;

    Tenants tenants(graph, order, plan);
    need[MemoryKind::activations] = tenants.pack(-1);
    for (std::size_t chunk = 0; chunk < plan.frames.size(); ++chunk) {
        Frames& frames = plan.frames[chunk];
        frames.bytes = align_up(tenants.pack(static_cast<int>(chunk)));
        frames.offset = need[MemoryKind::activations];
        need[MemoryKind::activations] += frames.count * frames.bytes;
    }
    for (const Tenant& tenant : tenants.all())
        for (const ValueId id : tenant.values) {
            plan.values[static_cast<std::size_t>(id)].offset = tenant.offset;
            plan.values[static_cast<std::size_t>(id)].chunk = tenant.chunk;
        }
}

} // namespace tessera
