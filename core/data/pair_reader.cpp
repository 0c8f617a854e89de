// SPDX-License-Identifier: Apache-2.0
// Pairs of texts, a line each: two files side by side, or one whose lines hold both. Tokenised once, one vocabulary for
// both; a sample is the source, filled up with the padding token, and the targets, filled up with -1, which no loss
// counts.
#include "core/data/content_hash.hpp"
#include "core/data/mapped_file.hpp"
#include "core/data/readers.hpp"
#include "core/data/text_marks.hpp"
#include "kernels/error.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <fmt/format.h>
#include <mutex>

namespace tessera {
namespace {

struct Pair {
    std::string_view source, target;
    std::string place; // FILE:LINE
};

// Tokens back to back; text i is [begins[i], begins[i + 1]).
struct Texts {
    std::vector<std::int32_t> tokens;
    std::vector<std::size_t> begins{0};

    void add(std::span<const std::int32_t> text, std::int32_t end) {
        tokens.insert(tokens.end(), text.begin(), text.end());
        tokens.push_back(end);
        begins.push_back(tokens.size());
    }
    std::span<const std::int32_t> text(std::int64_t number) const {
        const auto i = static_cast<std::size_t>(number);
        return std::span(tokens).subspan(begins[i], begins[i + 1] - begins[i]);
    }
};

std::string_view next_line(std::string_view& rest) {
    const std::size_t end = std::min(rest.find('\n'), rest.size());
    std::string_view line = rest.substr(0, end);
    rest.remove_prefix(std::min(end + 1, rest.size()));
    if (line.ends_with('\r')) line.remove_suffix(1);
    return line;
}

std::int64_t count_lines(std::string_view text) {
    return std::count(text.begin(), text.end(), '\n') + (text.empty() || text.ends_with('\n') ? 0 : 1);
}

class PairFiles {
public:
    PairFiles(const DatasetOptions& options, RecordErrors& errors) : options_(options), errors_(errors) {}

    std::vector<Pair> read(const std::vector<std::string>& sources, const std::vector<std::string>& targets) {
        std::vector<Pair> pairs;
        const std::vector<std::string> paths = matching_paths(sources), others = matching_paths(targets);
        if (!targets.empty() && paths.size() != others.size())
            throw DataError(fmt::format("{} files of sources, but {} of targets", paths.size(), others.size()));
        for (std::size_t i = 0; i < paths.size(); ++i)
            errors_.attempt("file", [&] {
                if (targets.empty())
                    read_joint(paths[i], pairs);
                else
                    read_two(paths[i], others[i], pairs);
            });
        return pairs;
    }

private:
    std::string_view open(const std::string& path) {
        return files_.emplace_back(std::make_unique<MappedFile>(path))->text();
    }

    void add(std::vector<Pair>& pairs, std::string_view source, std::string_view target, std::string place) {
        errors_.attempt("pair", [&] {
            if (source.empty() || target.empty())
                throw DataError(fmt::format("{}: the {} is empty", place, source.empty() ? "source" : "target"));
            pairs.push_back({source, target, place});
        });
    }

    void read_joint(const std::string& path, std::vector<Pair>& pairs) {
        std::string_view rest = open(path);
        for (std::int64_t line = 1; !rest.empty(); ++line) {
            const std::string_view both = next_line(rest);
            if (both.empty()) continue;
            const std::size_t cut = both.find(options_.pair_separator);
            errors_.attempt("pair", [&] {
                if (cut == std::string_view::npos)
                    throw DataError(
                        fmt::format("{}:{}: the separator '{}' is not there", path, line, options_.pair_separator));
            });
            if (cut == std::string_view::npos) continue;
            add(pairs, both.substr(0, cut), both.substr(cut + options_.pair_separator.size()),
                fmt::format("{}:{}", path, line));
        }
    }

    void read_two(const std::string& path, const std::string& other, std::vector<Pair>& pairs) {
        std::string_view sources = open(path), targets = open(other);
        if (count_lines(sources) != count_lines(targets))
            throw DataError(
                fmt::format("{} has {} lines, {} has {}", path, count_lines(sources), other, count_lines(targets)));
        for (std::int64_t line = 1; !sources.empty(); ++line) {
            const std::string_view source = next_line(sources), target = next_line(targets);
            add(pairs, source, target, fmt::format("{}:{}", source.empty() ? path : other, line));
        }
    }

    const DatasetOptions& options_;
    RecordErrors& errors_;
    std::vector<std::unique_ptr<MappedFile>> files_; // the pairs' text is theirs
};

class TextPairs final : public Dataset {
public:
    explicit TextPairs(const DatasetOptions& options) : errors_(options.skip_errors) {
        PairFiles files(options, errors_);
        std::vector<Pair> train = files.read(options.files, options.target_files);
        std::vector<Pair> validation = files.read(options.validation_files, options.validation_target_files);
        if (options.validation_files.empty()) {
            const auto kept = static_cast<std::size_t>(
                std::floor((1 - options.validation_fraction) * static_cast<double>(train.size())));
            validation.assign(train.begin() + static_cast<std::ptrdiff_t>(kept), train.end());
            train.resize(kept);
        }
        make_tokenizer(options, train, validation);
        encode(train, parts_[0]);
        encode(validation, parts_[1]);
        if (samples(Split::train) == 0)
            throw DataError(fmt::format("{}: no pair is left to train on", options.files[0]));
        const std::int64_t target = options.target_length > 0 ? options.target_length : options.sequence_length;
        form_ = {{{"source", {options.sequence_length}, DType::i32}, {"targets", {target}, DType::i32}},
                 marks_.vocabulary,
                 target,
                 "token",
                 true,
                 marks_};
    }

    const SampleForm& form() const override { return form_; }
    std::int64_t samples(Split split) const override {
        return static_cast<std::int64_t>(parts_[static_cast<std::size_t>(split)][0].begins.size()) - 1;
    }
    std::int64_t spacing() const override { return 1; }
    std::vector<SkippedRecords> skipped() const override { return errors_.skipped(); }
    const Tokenizer* tokenizer() const override { return tokenizer_.get(); }

    void read(Split split, std::int64_t sample, std::span<const View> views) const override {
        if (sample < 0 || sample >= samples(split) || views.size() != 2)
            throw InternalError(fmt::format("dataset: sample {} of {}", sample, samples(split)));
        for (std::size_t side = 0; side < 2; ++side) {
            const std::span<const std::int32_t> text = parts_[static_cast<std::size_t>(split)][side].text(sample);
            const auto room = static_cast<std::size_t>(form_.fields[side].shape[0]);
            auto* to = views[side].as<std::int32_t>();
            std::copy_n(text.begin(), std::min(text.size(), room), to);
            if (text.size() > room) to[room - 1] = marks_.end; // what is too long is cut, and still ends
            if (text.size() < room) std::fill(to + text.size(), to + room, side == 0 ? marks_.padding : -1);
        }
    }

    std::string fingerprint() const override {
        std::call_once(hashed_, [&] {
            ContentHash hash;
            hash.add(marks_.vocabulary);
            const std::string saved = tokenizer_->save();
            hash.add(saved.data(), saved.size());
            for (const auto& part : parts_)
                for (const Texts& side : part) {
                    hash.add(std::span<const std::int32_t>(side.tokens));
                    hash.add(std::span<const std::size_t>(side.begins));
                }
            fingerprint_ = hash.text();
        });
        return fingerprint_;
    }

private:
    void make_tokenizer(const DatasetOptions& options, const std::vector<Pair>& train,
                        const std::vector<Pair>& validation) {
        if (options.tokenizer_json.empty()) {
            std::vector<NamedText> texts;
            for (const std::vector<Pair>* pairs : {&train, &validation})
                for (const Pair& pair : *pairs) {
                    texts.push_back({pair.place, pair.source});
                    texts.push_back({pair.place, pair.target});
                }
            leave_out_broken(texts, options);
            tokenizer_ = train_tokenizer(options.tokenizer, texts);
        } else {
            tokenizer_ = Tokenizer::load(options.tokenizer_json);
        }
        marks_ = pair_marks(*tokenizer_);
        marks_.vocabulary = std::max(marks_.vocabulary, options.token_vocabulary);
    }

    void encode(const std::vector<Pair>& pairs, std::array<Texts, 2>& part) {
        for (const Pair& pair : pairs)
            errors_.attempt("pair", [&] {
                std::array<std::vector<std::int32_t>, 2> ids;
                try {
                    ids = {tokenizer_->encode(pair.source, pair.place), tokenizer_->encode(pair.target, pair.place)};
                } catch (const ConfigError& error) { // the tokenizer does not know that its text is of a file
                    throw DataError(error.what());
                }
                for (std::size_t side = 0; side < 2; ++side)
                    part[side].add(ids[side], marks_.end);
            });
    }

    RecordErrors errors_;
    SampleForm form_;
    std::unique_ptr<Tokenizer> tokenizer_;
    TextMarks marks_;
    std::array<std::array<Texts, 2>, 2> parts_; // by Split; source and target
    mutable std::once_flag hashed_;
    mutable std::string fingerprint_;
};

} // namespace

std::unique_ptr<Dataset> read_pairs(const DatasetOptions& options) {
    if (options.files.empty()) throw ConfigError("the reader 'pairs' needs files, none are given");
    if (options.pair_separator.empty()) throw ConfigError("data.pair_separator is empty");
    return std::make_unique<TextPairs>(options);
}

} // namespace tessera
