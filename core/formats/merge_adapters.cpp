// SPDX-License-Identifier: Apache-2.0
// Rows of B times A, added to the rows of a piece.
#include "core/formats/merge_adapters.hpp"

#include "core/checkpoint/streamed_save.hpp"
#include "core/config_catalog.hpp"
#include "core/layers/lora.hpp"
#include "kernels/error.hpp"

#include <algorithm>
#include <fmt/format.h>
#include <optional>

namespace tessera {
namespace {

constexpr std::string_view suffix = ".weight", of_a = ".lora_a", of_b = ".lora_b";

bool is_adapter(std::string_view name) { return name.ends_with(of_a) || name.ends_with(of_b); }

std::vector<float> read_whole(const Checkpoint& checkpoint, const SavedTensor& tensor) {
    std::vector<float> all(static_cast<std::size_t>(tensor.whole.count()));
    checkpoint.read(tensor.name, std::vector<std::int64_t>(static_cast<std::size_t>(tensor.whole.rank()), 0),
                    View(all.data(), tensor.whole, DType::f32));
    return all;
}

// Of one weight, seen as (outputs, inputs).
class Adapter {
public:
    // Nothing where the weight has none.
    static std::optional<Adapter> of(const Checkpoint& checkpoint, const SavedTensor& weight, const LoraOptions& lora) {
        if (!weight.name.ends_with(suffix)) return {};
        const std::string layer = weight.name.substr(0, weight.name.size() - suffix.size());
        const auto find = [&](std::string_view kind) {
            return std::ranges::find(checkpoint.tensors(), layer + std::string(kind), &SavedTensor::name);
        };
        const auto a = find(of_a), b = find(of_b), end = checkpoint.tensors().end();
        if (a == end && b == end) return {};
        const std::int64_t inputs = a == end ? 0 : a->whole.count() / std::max<std::int64_t>(lora.rank, 1);
        if (a == end || b == end || lora.rank == 0 || a->whole[0] != lora.rank || b->whole[-1] != lora.rank ||
            b->whole.count() / lora.rank * inputs != weight.whole.count())
            throw ConfigError(fmt::format("checkpoint {}: the adapters of '{}' are none of rank {} for {}",
                                          checkpoint.folder(), weight.name, lora.rank, weight.whole.text()));
        return Adapter{read_whole(checkpoint, *a), read_whole(checkpoint, *b), inputs, lora};
    }

    // Elements from `first` on.
    void add_to(const View& part, std::int64_t first) const {
        auto* weight = part.as<float>();
        for (std::int64_t done = 0; done < part.count();) {
            const std::int64_t row = (first + done) / inputs_, column = (first + done) % inputs_;
            const std::int64_t count = std::min(inputs_ - column, part.count() - done);
            for (std::int64_t i = 0; i < count; ++i) {
                double sum = 0;
                for (std::int64_t r = 0; r < rank_; ++r)
                    sum += static_cast<double>(b_[static_cast<std::size_t>(row * rank_ + r)]) *
                           a_[static_cast<std::size_t>(r * inputs_ + column + i)];
                weight[done + i] = static_cast<float>(weight[done + i] + factor_ * sum);
            }
            done += count;
        }
    }

private:
    Adapter(std::vector<float> a, std::vector<float> b, std::int64_t inputs, const LoraOptions& lora)
        : a_(std::move(a)), b_(std::move(b)), inputs_(inputs), rank_(lora.rank), factor_(lora.factor()) {}

    std::vector<float> a_, b_; // (rank, inputs), (outputs, rank)
    std::int64_t inputs_, rank_;
    double factor_;
};

} // namespace

std::string merge_adapters(const Checkpoint& checkpoint, const Config& config, const std::string& checkpoints_folder) {
    const LoraOptions lora = lora_options(config);
    std::vector<TensorSource> sources;
    for (const SavedTensor& tensor : checkpoint.tensors()) {
        if (is_optimizer_state(tensor.name) || is_adapter(tensor.name)) continue;
        sources.push_back({tensor, [&checkpoint, &tensor, &lora, known = false, adapter = std::optional<Adapter>()](
                                       const TensorPiece& piece, const View& part) mutable {
                               if (!known) adapter = Adapter::of(checkpoint, tensor, lora);
                               known = true;
                               checkpoint.read(tensor.name, piece.box.start, part);
                               if (adapter) adapter->add_to(part, piece.first);
                           }});
    }
    std::map<std::string, std::string> metadata = checkpoint.metadata();
    metadata["config"] =
        Config::parse(config.resolved(), checkpoint.folder() + ":config", {"lora.rank=0"}, known_keys()).resolved();
    return save_in_pieces(checkpoints_folder, checkpoint.step(), metadata, sources);
}

} // namespace tessera
