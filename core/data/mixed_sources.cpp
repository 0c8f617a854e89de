// SPDX-License-Identifier: Apache-2.0
// Sources are opened in their order, and each must fit the first.
#include "core/data/mixed_sources.hpp"

#include "core/data/content_hash.hpp"
#include "core/data/data_error.hpp"
#include "core/data/readers.hpp"
#include "kernels/error.hpp"

#include <algorithm>
#include <array>
#include <fmt/format.h>
#include <mutex>

namespace tessera {
namespace {

struct Source {
    std::string name, where;
    double weight;
    std::unique_ptr<Dataset> data;
};

std::string fields_text(const SampleForm& form) {
    std::string text;
    for (const Field& field : form.fields)
        text +=
            fmt::format("{}{} {} {}", text.empty() ? "" : ", ", field.name, field.shape.text(), name_of(field.dtype));
    return text;
}

// "'red' where the other has 'green'", or "" where one list is how the other begins.
std::string first_difference(const std::vector<std::string>& own, const std::vector<std::string>& others) {
    for (std::size_t i = 0; i < std::min(own.size(), others.size()); ++i)
        if (own[i] != others[i]) return fmt::format("number {} is '{}', there '{}'", i, own[i], others[i]);
    return {};
}

// Why samples of `own` are none of those of `first`; empty: they are.
std::string misfit(const Dataset& first, const Dataset& own) {
    const SampleForm &a = own.form(), &b = first.form();
    for (std::size_t i = 0; i < a.fields.size() && a.fields == b.fields && !(a.wanted.empty() && b.wanted.empty()); ++i)
        if (a.wanted.size() != b.wanted.size() || a.classes_of(i) != b.classes_of(i))
            return fmt::format("'{}' has {} classes, there {}", a.fields[i].name, a.classes_of(i),
                               b.wanted.size() == a.wanted.size() ? b.classes_of(i) : 0);
    if (a.fields != b.fields) return fmt::format("its samples are {}, there {}", fields_text(a), fields_text(b));
    const auto marks = [](const SampleForm& form) {
        return std::array<std::int64_t, 4>{form.marks.begin, form.marks.end, form.marks.padding, form.marks.vocabulary};
    };
    const bool text = a.is_text() || a.is_labelled_text();
    if (a.classes != b.classes)
        return fmt::format("it has {} {}, there {}{}", a.classes, a.is_text() ? "tokens in its vocabulary" : "classes",
                           b.classes, text ? "" : ": data.classes says how many there are");
    if (a.unit != b.unit || a.units != b.units || marks(a) != marks(b))
        return "the tokens with a meaning of their own are others";
    const Tokenizer *mine = own.tokenizer(), *its = first.tokenizer();
    if (mine != nullptr && its != nullptr && mine->save() != its->save())
        return "it is tokenised otherwise: data.tokenizer_file gives all the same tokenizer";
    if (const std::string other = first_difference(a.class_names, b.class_names); !other.empty())
        return fmt::format("its classes are others: {}", other);
    if (const std::string other = first_difference(a.feature_names, b.feature_names); !other.empty())
        return fmt::format("its features are others: {}", other);
    return {};
}

class MixedSources final : public Dataset {
public:
    explicit MixedSources(std::vector<Source> sources) : sources_(std::move(sources)), form_(sources_[0].data->form()) {
        for (const Split split : {Split::train, Split::validation}) {
            std::vector<std::int64_t>& firsts = firsts_[static_cast<std::size_t>(split)];
            firsts.push_back(0);
            for (const Source& source : sources_)
                firsts.push_back(firsts.back() + source.data->samples(split));
        }
        std::fill(form_.target_means.begin(), form_.target_means.end(), 0);
        const auto all = static_cast<double>(samples(Split::train));
        for (const Source& source : sources_) {
            const SampleForm& own = source.data->form();
            form_.leaves_out = form_.leaves_out || own.leaves_out;
            if (own.class_names.size() > form_.class_names.size()) form_.class_names = own.class_names;
            for (std::size_t i = 0; i < std::min(form_.target_means.size(), own.target_means.size()); ++i)
                form_.target_means[i] +=
                    own.target_means[i] * static_cast<double>(source.data->samples(Split::train)) / all;
        }
    }

    const SampleForm& form() const override { return form_; }
    std::int64_t samples(Split split) const override { return firsts(split).back(); }

    void read(Split split, std::int64_t sample, std::span<const View> views) const override {
        const std::size_t source = source_of(split, sample);
        sources_[source].data->read(split, sample - firsts(split)[source], views);
    }

    void expect(Split split, std::int64_t sample) const override {
        const std::size_t source = source_of(split, sample);
        sources_[source].data->expect(split, sample - firsts(split)[source]);
    }

    std::vector<SourcePart> sources(Split split) const override {
        std::vector<SourcePart> parts;
        for (std::size_t i = 0; i < sources_.size(); ++i) {
            const auto& [name, where, weight, data] = sources_[i];
            parts.push_back(
                {name, weight, firsts(split)[i], data->samples(split), data->spacing(), data->blocks(split)});
        }
        return parts;
    }

    std::vector<SkippedRecords> skipped() const override {
        std::vector<SkippedRecords> all;
        for (const Source& source : sources_)
            for (const SkippedRecords& own : source.data->skipped()) {
                const auto known = std::ranges::find(all, own.kind, &SkippedRecords::kind);
                if (known == all.end())
                    all.push_back(own);
                else
                    known->count += own.count;
            }
        return all;
    }

    const Tokenizer* tokenizer() const override {
        for (const Source& source : sources_)
            if (source.data->tokenizer() != nullptr) return source.data->tokenizer();
        return nullptr;
    }

    float black(std::int64_t sample, std::int64_t channel) const override {
        const std::size_t source = source_of(Split::train, sample);
        return sources_[source].data->black(sample - firsts(Split::train)[source], channel);
    }

    // Of what each source is and says: its name is part of the order, its weight of the mix.
    std::string fingerprint() const override {
        std::call_once(hashed_, [&] {
            ContentHash hash;
            for (const Source& source : sources_) {
                const std::string own = source.data->fingerprint();
                hash.add(source.name.data(), source.name.size() + 1);
                hash.add(&source.weight, sizeof source.weight);
                hash.add(own.data(), own.size());
            }
            fingerprint_ = hash.text();
        });
        return fingerprint_;
    }

private:
    const std::vector<std::int64_t>& firsts(Split split) const { return firsts_[static_cast<std::size_t>(split)]; }

    std::size_t source_of(Split split, std::int64_t sample) const {
        if (sample < 0 || sample >= samples(split))
            throw InternalError(fmt::format("dataset: sample {} of {}", sample, samples(split)));
        const auto after = std::ranges::upper_bound(firsts(split), sample);
        return static_cast<std::size_t>(after - firsts(split).begin()) - 1;
    }

    std::vector<Source> sources_;
    SampleForm form_;
    std::array<std::vector<std::int64_t>, 2> firsts_; // by Split: of each source, and of all at the end
    mutable std::once_flag hashed_;
    mutable std::string fingerprint_;
};

// Of all texts to be tokenised here, those for validation included; empty: there is nothing to train.
std::string joint_tokenizer(const std::vector<SourceOptions>& sources) {
    std::vector<std::string> files;
    const DatasetOptions* any = nullptr;
    for (const auto& [name, weight, where, data] : sources) {
        if (data.reader != "text" || data.open || !data.tokenizer_json.empty()) continue;
        any = &data;
        files.insert(files.end(), data.files.begin(), data.files.end());
        files.insert(files.end(), data.validation_files.begin(), data.validation_files.end());
    }
    return any == nullptr ? "" : tokenizer_of_texts(any->tokenizer, files, any->skip_errors)->save();
}

} // namespace

std::unique_ptr<Dataset> open_mixed(const std::vector<SourceOptions>& options) {
    std::vector<double> weights;
    for (const SourceOptions& source : options)
        weights.push_back(source.weight);
    whole_weights(weights); // before anything is read
    const std::string tokenizer = joint_tokenizer(options);
    std::vector<Source> sources;
    for (const SourceOptions& source : options) {
        DatasetOptions own = source.data;
        if (own.reader == "text" && !own.open && own.tokenizer_json.empty()) own.tokenizer_json = tokenizer;
        sources.push_back({source.name, source.where, source.weight, open_dataset(own)});
        const Source& last = sources.back();
        for (const Source& before : sources) // each: lists of names may be how others begin
            if (const std::string why = misfit(*before.data, *last.data); !why.empty())
                throw DataError(fmt::format("{}: the source '{}' does not fit '{}' ({}): {}", last.where, last.name,
                                            before.name, before.where, why));
    }
    return std::make_unique<MixedSources>(std::move(sources));
}

} // namespace tessera
