// SPDX-License-Identifier: Apache-2.0
// What libraries say of a file that they cannot read goes into the sentence.
#include "core/data/raster.hpp"

#include "core/data/data_error.hpp"

#include <algorithm>
#include <cstring>
#include <fmt/format.h>
#include <memory>
#include <png.h>
#include <string_view>
#include <turbojpeg.h>

namespace tessera {
namespace {

constexpr std::int64_t most_pixels = std::int64_t{1} << 27;
constexpr std::size_t tail = 4096; // of a file, where its end mark must be: cameras leave a little behind it

[[noreturn]] void refuse(const MappedFile& file, std::string_view why) {
    throw DataError(fmt::format("{}: {}", file.path(), why));
}

constexpr std::string_view jpeg_end = "\xFF\xD9", png_end = "IEND";

bool has_end_mark(const MappedFile& file, std::string_view mark) {
    const std::string_view text = file.text();
    return text.substr(text.size() - std::min(text.size(), tail)).find(mark) != std::string_view::npos;
}

bool is_jpeg(const MappedFile& file) { return file.text().starts_with("\xFF\xD8\xFF"); }
bool is_png(const MappedFile& file) { return file.text().starts_with("\x89PNG\r\n\x1A\n"); }

[[noreturn]] void refuse_format(const MappedFile& file) { refuse(file, "neither a JPEG nor a PNG image"); }

void check_size(const MappedFile& file, std::int64_t height, std::int64_t width) {
    if (height < 1 || width < 1 || height > most_pixels / width)
        refuse(file, fmt::format("{} x {} pixels, expected from 1 to {}", height, width, most_pixels));
}

std::size_t size_of(std::int64_t height, std::int64_t width, std::int64_t channels) {
    return static_cast<std::size_t>(height * width * channels);
}

class Jpeg {
public:
    explicit Jpeg(const MappedFile& file) : file_(file), handle_(tjInitDecompress(), tjDestroy) {
        if (handle_ == nullptr) throw SystemError(fmt::format("libjpeg-turbo: {}", tjGetErrorStr2(nullptr)));
        if (tjDecompressHeader3(handle_.get(), bytes(), size(), &width_, &height_, &sampling_, &colours_) != 0)
            refuse(file_, fmt::format("damaged or truncated JPEG image: {}", tjGetErrorStr2(handle_.get())));
        check_size(file_, height_, width_);
    }

    Raster decode(std::int64_t channels, std::int64_t height, std::int64_t width) const {
        const tjscalingfactor by = scaling(height, width);
        Raster image{TJSCALED(height_, by), TJSCALED(width_, by), channels, {}};
        const bool inks = colours_ == TJCS_CMYK || colours_ == TJCS_YCCK;
        image.pixels.resize(size_of(image.height, image.width, inks ? 4 : channels));
        const int format = inks ? TJPF_CMYK : channels == 1 ? TJPF_GRAY : TJPF_RGB;
        const int failed =
            tjDecompress2(handle_.get(), bytes(), size(), image.pixels.data(), static_cast<int>(image.width), 0,
                          static_cast<int>(image.height), format, TJFLAG_ACCURATEDCT);
        if (failed != 0) check_warning();
        if (inks) mix(image);
        return image;
    }

private:
    const unsigned char* bytes() const { return reinterpret_cast<const unsigned char*>(file_.bytes().data()); }
    unsigned long size() const { return file_.bytes().size(); }

    // The smallest that has so many pixels.
    tjscalingfactor scaling(std::int64_t height, std::int64_t width) const {
        tjscalingfactor best{1, 1};
        for (const int part : {2, 4, 8}) {
            const tjscalingfactor by{1, part};
            if (TJSCALED(height_, by) >= height && TJSCALED(width_, by) >= width) best = by;
        }
        return best;
    }

    // Pixels may have been made up for what is not there; stray bytes between parts harm none. Only the first warning
    // of an image is told.
    void check_warning() const {
        const std::string why = tjGetErrorStr2(handle_.get());
        const bool cut = why.find("remature end") != std::string::npos || !has_end_mark(file_, jpeg_end);
        const bool harmless =
            why.find("Corrupt JPEG data") == std::string::npos || why.find("extraneous") != std::string::npos;
        if (tjGetErrorCode(handle_.get()) != TJERR_WARNING || cut || !harmless)
            refuse(file_, fmt::format("{}: {}", cut ? "truncated JPEG image" : "damaged JPEG image", why));
    }

    // Four inks, turned round as Adobe does, to red, green and blue or brightness.
    static void mix(Raster& image) {
        std::vector<std::uint8_t> mixed(size_of(image.height, image.width, image.channels));
        for (std::size_t i = 0; i < image.pixels.size() / 4; ++i) {
            const std::uint8_t* inks = image.pixels.data() + 4 * i;
            int colours[3];
            for (int c = 0; c < 3; ++c)
                colours[c] = (inks[c] * inks[3] + 127) / 255;
            if (image.channels == 3)
                std::copy_n(colours, 3, mixed.begin() + static_cast<std::ptrdiff_t>(3 * i));
            else
                mixed[i] =
                    static_cast<std::uint8_t>((299 * colours[0] + 587 * colours[1] + 114 * colours[2] + 500) / 1000);
        }
        image.pixels = std::move(mixed);
    }

    const MappedFile& file_;
    std::unique_ptr<void, int (*)(void*)> handle_;
    int width_ = 0, height_ = 0, sampling_ = 0, colours_ = 0;
};

class Png {
public:
    explicit Png(const MappedFile& file) : file_(file) {
        image_.version = PNG_IMAGE_VERSION;
        if (png_image_begin_read_from_memory(&image_, file.bytes().data(), file.bytes().size()) == 0)
            refuse(file, fmt::format("damaged or truncated PNG image: {}", image_.message));
        image_.flags |= PNG_IMAGE_FLAG_16BIT_sRGB;
        try {
            check_size(file, image_.height, image_.width);
        } catch (...) {
            png_image_free(&image_);
            throw;
        }
    }
    ~Png() { png_image_free(&image_); }
    Png(const Png&) = delete;
    Png& operator=(const Png&) = delete;

    Raster decode(std::int64_t channels) {
        image_.format = PNG_FORMAT_RGBA;
        Raster image{image_.height, image_.width, channels, {}};
        std::vector<std::uint8_t> pixels(size_of(image.height, image.width, 4));
        if (png_image_finish_read(&image_, nullptr, pixels.data(), 0, nullptr) == 0)
            refuse(file_, fmt::format("damaged or truncated PNG image: {}", image_.message));
        image.pixels.resize(size_of(image.height, image.width, channels));
        for (std::size_t i = 0; i < pixels.size() / 4; ++i) {
            const std::uint8_t* from = pixels.data() + 4 * i;
            if (channels == 3)
                std::memcpy(image.pixels.data() + 3 * i, from, 3);
            else
                image.pixels[i] =
                    static_cast<std::uint8_t>((299 * from[0] + 587 * from[1] + 114 * from[2] + 500) / 1000);
        }
        return image;
    }

private:
    const MappedFile& file_;
    png_image image_{};
};

} // namespace

Raster decode_image(const MappedFile& file, std::int64_t channels, std::int64_t height, std::int64_t width) {
    if (is_jpeg(file)) return Jpeg(file).decode(channels, height, width);
    if (is_png(file)) return Png(file).decode(channels);
    refuse_format(file);
}

void check_image(const MappedFile& file) {
    if (is_jpeg(file)) {
        const Jpeg header(file);
        if (!has_end_mark(file, jpeg_end)) refuse(file, "truncated JPEG image: no end mark");
    } else if (is_png(file)) {
        const Png header(file);
        if (!has_end_mark(file, png_end)) refuse(file, "truncated PNG image: no end mark");
    } else {
        refuse_format(file);
    }
}

} // namespace tessera
