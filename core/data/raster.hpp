// SPDX-License-Identifier: Apache-2.0
// Images of files as pixels: JPEG through libjpeg-turbo, PNG through libpng.
#pragma once

#include "core/data/mapped_file.hpp"

#include <cstdint>
#include <vector>

namespace tessera {

struct Raster {
    std::int64_t height = 0, width = 0, channels = 0;
    std::vector<std::uint8_t> pixels; // (height, width, channels)
};

// `channels`: 1 (brightness, ITU-R BT.601) or 3 (red, green, blue); transparency is left out, a note of how the camera
// was held (EXIF) is not obeyed. A JPEG comes out at a half, a quarter or an eighth of its size where that still has
// the height and width wanted, as libjpeg makes those in a fraction of the time. Throws DataError with the path for
// what is neither, is cut off or damaged, or has more than 2^27 pixels.
Raster decode_image(const MappedFile& file, std::int64_t channels, std::int64_t height, std::int64_t width);

// Whether begin and end of the file are those of an image, without its pixels. Throws as above.
void check_image(const MappedFile& file);

// The largest part in the middle that has the wanted form, (height, width, channels): each pixel is what lies around it
// weighted by a triangle as wide as two pixels of the result or, where those are smaller, of the image: bilinear
// interpolation without aliases, as in Pillow and torchvision. `result`: height * width * channels, from 0 to 255.
void resample(const Raster& image, std::int64_t height, std::int64_t width, float* result);

} // namespace tessera
