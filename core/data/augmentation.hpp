// SPDX-License-Identifier: Apache-2.0
// Samples changed by chance, another way in each epoch: a function of seed, epoch and sample, never of rank or batch.
#pragma once

#include "core/data/sample_form.hpp"

#include <cstdint>
#include <span>
#include <vector>

namespace tessera {

struct Augmentation {
    std::uint64_t seed = 0;
    std::int64_t crop_padding =
        0; // the image is padded by so many black pixels on each side, and as much cut off again
    // Where `most_area` is above 0: a box of a share of the image's area in [least_area, most_area], and of width by
    // height in [least_ratio, most_ratio], is scaled to the whole, as torchvision's RandomResizedCrop does it.
    double least_area = 0, most_area = 0, least_ratio = 3.0 / 4, most_ratio = 4.0 / 3;
    bool flip = false;       // left and right are exchanged in half of all cases
    std::int64_t cutout = 0; // side of a square of mean grey around any pixel (DeVries and Taylor 2017); 0: none

    // Mixup (Zhang et al. 2018): a sample becomes share * itself + (1 - share) * another one, its label so much of
    // either. The share is of Beta(mixup, mixup), the other the next sample in the run's order; 0: none.
    double mixup = 0;
    std::int64_t classes = 0; // mixup: of the labels, which become probabilities

    bool changes() const { return crop_padding > 0 || most_area > 0 || flip || cutout > 0; }
    bool mixes() const { return mixup > 0; }

    // Fields as they are when samples are mixed: the last, a label () i32, is (classes) f32.
    std::vector<Field> fields_given(std::vector<Field> fields) const;

    // Of the sample in the mixture, in [0, 1].
    float share(std::int64_t epoch, std::int64_t sample) const;

    // one = share * one + (1 - share) * other   one, other: of one shape, f32   labels: of both, -1: none
    // probabilities: (classes) f32
    static void mix(float share, const ConstView& other, const View& one);
    void mix_labels(float share, std::int32_t one, std::int32_t other, const View& probabilities) const;

    // In pixels of the image.
    struct Box {
        std::int64_t top = 0, left = 0, height = 0, width = 0;
    };
    // What is cut out of an image (H, W, C). Uses least_area, ….
    Box resized_crop(std::int64_t epoch, std::int64_t sample, const Shape& image) const;
    // y[h,w,:] = x at ((h + 1/2) height / H - 1/2, …) of the box, between its four neighbours by their distance
    // (bilinear, no corners aligned, no antialiasing). x, y: (H, W, C), y: f32
    static void scale_box(const std::vector<float>& x, const Box& box, const View& y);

    // image: (H, W, C) f32, normalised: the mean is 0   black: (C) what a pixel of 0 has become. `room` is kept for the
    // next.
    void apply(std::int64_t epoch, std::int64_t sample, std::span<const float> black, const View& image,
               std::vector<float>& room) const;
};

} // namespace tessera
