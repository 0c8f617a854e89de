// SPDX-License-Identifier: Apache-2.0
// Copies of a micro-batch's values, and their comparison.
#include "core/run/recording.hpp"

#include "core/run/host_copy.hpp"

#include <algorithm>
#include <cstring>

namespace tessera {

Recording::Recording(const Program& many, const Twins& twins, const Tolerances& tolerances)
    : many_(many), twins_(twins), tolerances_(tolerances), by_twin_(many.plan.values.size()) {}

void Recording::clear() {
    entries_.clear();
    for (std::vector<std::size_t>& indices : by_twin_)
        indices.clear();
    place_ = {};
}

void Recording::keep(Stream& stream, const Node& node, std::span<const View> outputs) {
    if (node.phase != place_.phase) place_ = {node.phase, -1, 0};
    ++place_.after;
    for (const ValueId output : node.outputs) { // a node of the model, as the one rank has it, too
        const ValueId twin = twins_.of(output);
        if (twin != output) continue;
        place_ = {node.phase, twins_.producer_of(twin), 0};
    }
    for (std::size_t i = 0; i < outputs.size(); ++i)
        keep(stream, node.outputs[i], outputs[i]);
}

void Recording::keep_input(Stream& stream, ValueId id, const View& view) {
    place_ = {Phase::forward, -1, 0};
    keep(stream, id, view);
}

void Recording::keep(Stream& stream, ValueId id, const View& view) {
    if (!twins_.in_micro_batch(id)) return;
    HostCopy copy(stream, view);
    copy.load();
    Entry entry{place_, id, part_in_micro_batch(many_, id), {}};
    entry.bytes.resize(static_cast<std::size_t>(view.bytes()));
    if (view.bytes() > 0) std::memcpy(entry.bytes.data(), copy.view().data, entry.bytes.size());
    by_twin_[static_cast<std::size_t>(twins_.of(id))].push_back(entries_.size());
    entries_.push_back(std::move(entry));
}

void Recording::compare(Stream& stream, ValueId twin, const View& whole) {
    const std::vector<std::size_t>& indices = by_twin_[static_cast<std::size_t>(twin)];
    if (indices.empty()) return;
    HostCopy copy(stream, whole);
    copy.load();
    for (const std::size_t index : indices) {
        Entry& entry = entries_[index];
        const ConstView held{entry.bytes.data(), many_.plan.value(entry.value).local.shape, whole.dtype};
        entry.distance = distance(entry.part, held, copy.view());
    }
}

// Weights in use are made of equal weights element by element, and tokens are what they are.
double Recording::tolerance(const Entry& entry) const {
    const DType dtype = many_.plan.value(entry.value).local.dtype;
    if (entry.place.phase == Phase::prepare || dtype == DType::i32) return 0;
    const auto is_it = [&](const WeightedLoss& loss) { return loss.value == twins_.of(entry.value); };
    return std::ranges::any_of(many_.model.losses, is_it) ? tolerances_.loss : tolerances_.value;
}

const Recording::Entry* Recording::first_wrong() const {
    const auto found =
        std::ranges::find_if(entries_, [this](const Entry& entry) { return entry.distance > tolerance(entry); });
    return found == entries_.end() ? nullptr : &*found;
}

double Recording::largest() const {
    double most = 0;
    for (const Entry& entry : entries_)
        most = std::max(most, entry.distance);
    return most;
}

const Recording::Entry* Recording::before(const Entry& entry) const {
    for (auto index = &entry - entries_.data(); index-- > 0;)
        if (entries_[static_cast<std::size_t>(index)].distance >= 0) return &entries_[static_cast<std::size_t>(index)];
    return nullptr;
}

} // namespace tessera
