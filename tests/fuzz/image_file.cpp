// SPDX-License-Identifier: Apache-2.0
// Images in IDX, packed or not, opened with four good labels and read to their end; then the same bytes as the labels
// of four good images.
#include "core/data/dataset.hpp"
#include "kernels/error.hpp"
#include "tests/fuzz/target.hpp"

#include <vector>

using namespace tessera;

namespace {

void read_all(const std::string& images, const std::string& labels, const std::string& subject) {
    DatasetOptions options;
    options.reader = "idx";
    options.files = {images};
    options.label_files = {labels};
    options.validation_fraction = 0.25;
    try {
        const std::unique_ptr<Dataset> dataset = open_dataset(options);
        std::vector<float> image(static_cast<std::size_t>(dataset->form().fields[0].shape.count()));
        std::int32_t label = 0;
        const std::vector<View> views{{image.data(), dataset->form().fields[0].shape, DType::f32},
                                      {&label, {}, DType::i32}};
        for (const Split split : {Split::train, Split::validation})
            for (std::int64_t sample = 0; sample < dataset->samples(split); ++sample)
                dataset->read(split, sample, views);
    } catch (const ConfigError& refusal) {
        fuzz::expect_names(refusal.what(), subject);
    }
}

} // namespace

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    using namespace std::string_view_literals;
    const std::string subject = fuzz::write_file("fuzz.idx", fuzz::text_of(data, size));
    const std::string labels = fuzz::write_file("labels.idx", "\0\0\x08\x01\0\0\0\x04\0\x01\x02\x01"sv);
    const std::string images =
        fuzz::write_file("images.idx", "\0\0\x08\x03\0\0\0\x04\0\0\0\x01\0\0\0\x01\x09\x08\x07\x06"sv);
    const bool packed = size > 2 && data[0] == 0x1f && data[1] == 0x8b;
    constexpr std::size_t most_of_deflate = 1032, of_a_pixel = sizeof(float);
    const fuzz::AllocationLimit limit((packed ? most_of_deflate : 1) * of_a_pixel * size, 256 << 10);
    read_all(subject, labels, subject);
    read_all(images, subject, subject);
    return 0;
}
