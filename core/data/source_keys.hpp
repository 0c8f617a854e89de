// SPDX-License-Identifier: Apache-2.0
// The keys of [data] as one source says them: its table [[data.sources]], or the section where there is no such table.
#pragma once

#include "core/config.hpp"

#include <optional>
#include <set>
#include <string>
#include <vector>

namespace tessera {

inline constexpr Key<std::string> source_name{
    "data.sources[].name", "", "of a source that is mixed with others; its order is drawn by seed and name"};
inline constexpr Key<double> source_weight{
    "data.sources[].weight", 1, "of the samples to train on this share, beside the weights of the other sources"};
inline constexpr Key<std::string> source_reader{"data.sources[].reader", "text",
                                                "as data.reader; not set: that is the reader"};
inline constexpr Key<std::vector<std::string>> source_files{"data.sources[].files", "",
                                                            "as data.files, which is not set then"};
inline constexpr Key<std::vector<std::string>> source_validation_files{"data.sources[].validation_files", "",
                                                                       "as data.validation_files"};
inline constexpr Key<double> source_validation_fraction{
    "data.sources[].validation_fraction", 0.1, "as data.validation_fraction, which holds where this is not set"};
inline constexpr Key<std::vector<std::string>> source_label_files{"data.sources[].label_files", "",
                                                                  "as data.label_files"};
inline constexpr Key<std::vector<std::string>> source_validation_label_files{"data.sources[].validation_label_files",
                                                                             "", "as data.validation_label_files"};
inline constexpr Key<std::vector<std::string>> source_target_files{"data.sources[].target_files", "",
                                                                   "as data.target_files"};
inline constexpr Key<std::vector<std::string>> source_validation_target_files{"data.sources[].validation_target_files",
                                                                              "", "as data.validation_target_files"};
inline constexpr Key<std::string> source_input_field{"data.sources[].input_field", "",
                                                     "as data.input_field, which holds where this is not set"};
inline constexpr Key<std::string> source_target_field{"data.sources[].target_field", "",
                                                      "as data.target_field, which holds where this is not set"};
inline constexpr Key<std::string> source_label_column{"data.sources[].label_column", "",
                                                      "as data.label_column, which holds where this is not set"};
inline constexpr Key<std::string> source_statistics{"data.sources[].statistics", "", "as data.statistics"};
inline constexpr Key<std::vector<std::string>> source_text_columns{
    "data.sources[].text_columns", "", "as data.text_columns, which holds where this is not set"};

// Reading marks keys as read, so one is not for several threads at once. The config must outlive it.
class DataKeys {
public:
    explicit DataKeys(const Config& config, std::optional<ConfigItem> source = {})
        : config_(&config), source_(std::move(source)) {}

    // The source's own value, or that of the section; files are the source's alone.
    template <class T> T get(const Key<T>& key) const {
        const std::string own = own_name(key.name);
        return own.empty() ? config_->get(key) : source_->get(Key<T>{own, key.fallback, key.help});
    }

    const Config& config() const { return *config_; }
    bool is_source() const { return source_.has_value(); }

    // Throws ConfigError with the place of the key, "data.files" say, or of its table.
    [[noreturn]] void refuse(std::string_view key, const std::string& why) const;
    // Throws ConfigError for a key of the table that nobody has read.
    void refuse_unread() const;

    // Of a table.
    std::string name() const { return source_->get(source_name); }
    double weight() const; // ConfigError where it is not above 0
    const std::string& where() const { return source_->where(); }

private:
    // "data.sources[].files" for "data.files" where the source says it; else "".
    std::string own_name(std::string_view key) const;

    const Config* config_;
    std::optional<ConfigItem> source_;
    mutable std::set<std::string, std::less<>> read_;
};

// One for each table, or one for the section. ConfigError for tables without a name, or two of one name.
std::vector<DataKeys> sources_in(const Config& config);

} // namespace tessera
