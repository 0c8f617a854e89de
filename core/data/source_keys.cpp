// SPDX-License-Identifier: Apache-2.0
// Which keys a table [[data.sources]] may say, and what stands in for those that it does not.
#include "core/data/source_keys.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <fmt/format.h>
#include <span>

namespace tessera {
namespace {

constexpr std::string_view prefix = "data.sources[].";

// Those of files are the table's alone, so that no source reads another's.
constexpr std::array own_alone = {source_files.name,        source_validation_files.name,
                                  source_label_files.name,  source_validation_label_files.name,
                                  source_target_files.name, source_validation_target_files.name,
                                  source_statistics.name};
constexpr std::array or_of_section = {source_reader.name,       source_validation_fraction.name,
                                      source_input_field.name,  source_target_field.name,
                                      source_label_column.name, source_text_columns.name};

bool holds(std::span<const std::string_view> names, std::string_view name) {
    return std::ranges::find(names, name) != names.end();
}

} // namespace

std::string DataKeys::own_name(std::string_view key) const {
    if (!source_) return {};
    std::string own = fmt::format("{}{}", prefix, key.substr(key.find('.') + 1));
    if (!holds(own_alone, own) && !(holds(or_of_section, own) && source_->is_set(own))) return {};
    read_.insert(own);
    return own;
}

void DataKeys::refuse(std::string_view key, const std::string& why) const {
    const std::string own = own_name(key);
    if (own.empty()) config_->refuse(key, why);
    source_->refuse(own, why);
}

void DataKeys::refuse_unread() const {
    for (const std::string_view key : source_->keys_set())
        if (key != source_name.name && key != source_weight.name && !read_.contains(key))
            source_->refuse(key, "the reader of this source has no use for it");
}

double DataKeys::weight() const {
    const double weight = source_->get(source_weight);
    if (!(weight > 0 && std::isfinite(weight))) source_->refuse(source_weight.name, "must be above 0");
    return weight;
}

std::vector<DataKeys> sources_in(const Config& config) {
    std::vector<DataKeys> sources;
    for (ConfigItem& item : config.items("data.sources")) {
        const std::string name = item.get(source_name);
        if (name.empty()) item.refuse("a source wants a name");
        for (const DataKeys& other : sources)
            if (other.name() == name)
                item.refuse(source_name.name, fmt::format("another source ({}) has this name", other.where()));
        sources.emplace_back(config, std::move(item));
    }
    if (sources.empty()) sources.emplace_back(config);
    return sources;
}

} // namespace tessera
