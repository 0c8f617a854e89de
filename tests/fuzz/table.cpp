// SPDX-License-Identifier: Apache-2.0
// A table in CSV, once with a column of categories and once with one of numbers, with a header and without, opened and
// read to its end.
#include "core/data/dataset.hpp"
#include "kernels/error.hpp"
#include "tests/fuzz/target.hpp"

#include <vector>

using namespace tessera;

namespace {

void read_all(const DatasetOptions& options) {
    try {
        const std::unique_ptr<Dataset> dataset = open_dataset(options);
        std::vector<float> features(static_cast<std::size_t>(dataset->form().fields[0].shape.count()));
        std::int32_t found = 0; // the bits of a float, too
        const Field& target = dataset->form().fields[1];
        const std::vector<View> views{{features.data(), dataset->form().fields[0].shape, DType::f32},
                                      {&found, target.shape, target.dtype}};
        for (const Split split : {Split::train, Split::validation})
            for (std::int64_t sample = 0; sample < dataset->samples(split); ++sample)
                dataset->read(split, sample, views);
    } catch (const ConfigError& refusal) {
        fuzz::expect_names(refusal.what(), options.files[0]);
    }
}

} // namespace

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    DatasetOptions options;
    options.reader = "csv";
    options.files = {fuzz::write_file("fuzz.csv", fuzz::text_of(data, size))};
    options.validation_fraction = 0.25;
    const fuzz::AllocationLimit limit(64 * size, 64 << 10); // a field of one letter is a std::string
    for (const bool header : {true, false})
        for (const bool category : {true, false}) {
            options.header = header;
            const std::string column = header ? "kind" : "2";
            options.label_column = category ? column : "";
            options.targets = category ? std::vector<std::string>() : std::vector<std::string>{column};
            read_all(options);
        }
    options.reader = "arff";
    options.missing_mean = true;
    options.label_column = "kind";
    options.targets.clear();
    read_all(options);
    return 0;
}
