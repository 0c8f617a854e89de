// SPDX-License-Identifier: Apache-2.0
// The parser of MANIFEST: strict, a line at a time. It trusts nothing that it reads.
#include "core/checkpoint/manifest.hpp"

#include "kernels/error.hpp"

#include <algorithm>
#include <charconv>
#include <fmt/format.h>
#include <limits>
#include <set>
#include <tuple>

namespace tessera {
namespace {

constexpr std::int64_t greatest_step = 1'000'000'000'000; // times a batch it is still a 64-bit number
constexpr std::size_t end_line_size = 4 + 16 + 1;         // "end " HASH "\n"

// One line: fields divided by single blanks. Whatever is wrong throws with the line's number.
class Line {
public:
    Line(std::string_view text, const std::string& where, std::int64_t number)
        : rest_(text), where_(where), number_(number) {}

    [[noreturn]] void refuse(const std::string& reason) const {
        throw ConfigError(fmt::format("{}: line {}: {}", where_, number_, reason));
    }

    std::string_view word(const char* what) {
        if (rest_.empty()) refuse(fmt::format("{} is missing", what));
        const std::size_t end = std::min(rest_.find(' '), rest_.size());
        const std::string_view found = rest_.substr(0, end);
        rest_.remove_prefix(std::min(end + 1, rest_.size()));
        return found;
    }

    std::string_view rest() {
        const std::string_view found = rest_;
        rest_ = {};
        return found;
    }

    std::int64_t number(const char* what, std::int64_t greatest = std::numeric_limits<std::int64_t>::max()) {
        return number_in(word(what), what, greatest);
    }

    std::string name(const char* what) {
        const std::string_view found = word(what);
        if (!is_valid_name(found)) refuse(fmt::format("'{}' cannot be a {}", found.substr(0, 80), what));
        return std::string(found);
    }

    std::string file_name() {
        std::string found = name("file name");
        if (found.find('/') != std::string::npos) refuse(fmt::format("file name '{}' leads to another folder", found));
        return found;
    }

    std::uint64_t hash(std::string_view text) const {
        std::uint64_t value = 0;
        const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, 16);
        if (error != std::errc() || end != text.data() + text.size() || text.size() != 16)
            refuse(fmt::format("'{}' is not a hash", text.substr(0, 80)));
        return value;
    }

    // "(3,4)"; at most as many numbers as a shape may have dims.
    std::vector<std::int64_t> numbers(const char* what) {
        std::string_view list = word(what);
        if (list.size() < 2 || list.front() != '(' || list.back() != ')') refuse(fmt::format("{} is not a list", what));
        list = list.substr(1, list.size() - 2);
        std::vector<std::int64_t> found;
        while (!list.empty()) {
            const std::size_t comma = std::min(list.find(','), list.size());
            found.push_back(number_in(list.substr(0, comma), what, std::numeric_limits<std::int64_t>::max()));
            if (comma + 1 == list.size()) refuse(fmt::format("{} ends in a comma", what));
            list.remove_prefix(std::min(comma + 1, list.size()));
            if (found.size() > Shape::max_rank) refuse(fmt::format("{} has over {} numbers", what, Shape::max_rank));
        }
        return found;
    }

    // A shape whose size in bytes is a 64-bit number.
    Shape shape(const char* what, DType dtype) {
        const std::vector<std::int64_t> sizes = numbers(what);
        Shape shape;
        std::int64_t bytes = bytes_of(dtype);
        for (const std::int64_t size : sizes) {
            if (__builtin_mul_overflow(bytes, std::max<std::int64_t>(size, 1), &bytes))
                refuse(fmt::format("{} {} is too large", what, numbers_text(sizes)));
            shape.append(size);
        }
        return shape;
    }

    DType dtype() {
        const std::string_view found = word("dtype");
        for (const DType dtype : {DType::f32, DType::bf16, DType::i32})
            if (name_of(dtype) == found) return dtype;
        refuse(fmt::format("unknown dtype '{}'", found.substr(0, 80)));
    }

    void finish() const {
        if (!rest_.empty()) refuse(fmt::format("'{}' is left over", rest_.substr(0, 80)));
    }

private:
    std::int64_t number_in(std::string_view text, const char* what, std::int64_t greatest) const {
        std::int64_t value = 0;
        const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
        if (error != std::errc() || end != text.data() + text.size() || value < 0 || value > greatest)
            refuse(fmt::format("'{}' cannot be the {}", text.substr(0, 80), what));
        return value;
    }

    std::string_view rest_;
    const std::string& where_;
    std::int64_t number_;
};

std::string unescaped(std::string_view text, const Line& line) {
    std::string result;
    for (std::size_t i = 0; i < text.size(); ++i) {
        if (text[i] != '\\') {
            result += text[i];
            continue;
        }
        const char kind = ++i < text.size() ? text[i] : '\0';
        unsigned value = 0;
        if (kind == 'n')
            result += '\n';
        else if (kind == '\\')
            result += '\\';
        else if (kind == 'x' && i + 2 < text.size() &&
                 std::from_chars(&text[i + 1], &text[i + 3], value, 16).ptr == &text[i + 3]) {
            result += static_cast<char>(value);
            i += 2;
        } else
            line.refuse("a backslash that escapes nothing");
    }
    return result;
}

FileEntry parse_file(Line& line) {
    FileEntry file;
    file.name = line.file_name();
    file.bytes = line.number("size of the file");
    file.hash = line.hash(line.word("hash"));
    return file;
}

Slab parse_slab(Line& line, const TensorEntry& tensor, const std::vector<FileEntry>& files) {
    Slab slab;
    slab.file = static_cast<int>(line.number("file", static_cast<std::int64_t>(files.size()) - 1));
    slab.box.start = line.numbers("start");
    slab.box.count = line.shape("count", tensor.dtype);
    if (static_cast<int>(slab.box.start.size()) != tensor.whole.rank() || slab.box.count.rank() != tensor.whole.rank())
        line.refuse(fmt::format("the slab has another number of dims than tensor '{}'", tensor.name));
    for (int dim = 0; dim < tensor.whole.rank(); ++dim)
        if (slab.box.count[dim] == 0 || slab.box.count[dim] > tensor.whole[dim] ||
            slab.box.start[static_cast<std::size_t>(dim)] > tensor.whole[dim] - slab.box.count[dim])
            line.refuse(fmt::format("the slab {} is not inside tensor '{}' {}", slab.box.text(), tensor.name,
                                    tensor.whole.text()));
    slab.first_byte = line.number("first byte");
    const FileEntry& file = files[static_cast<std::size_t>(slab.file)];
    const std::int64_t bytes = slab.box.count.count() * bytes_of(tensor.dtype);
    if (bytes > file.bytes || slab.first_byte > file.bytes - bytes)
        line.refuse(fmt::format("tensor '{}' ends beyond the end of {}", tensor.name, file.name));
    const std::string_view dataset = line.word("dataset");
    const std::size_t mark = std::min(dataset.find('#'), dataset.size());
    if (!is_valid_name(dataset.substr(0, mark)) ||
        dataset.find_first_not_of("0123456789", mark + 1) != std::string_view::npos)
        line.refuse(fmt::format("'{}' cannot be a dataset", dataset.substr(0, 80)));
    slab.dataset = std::string(dataset);
    std::string_view hashes = line.word("hashes");
    while (!hashes.empty()) {
        slab.block_hashes.push_back(line.hash(hashes.substr(0, hashes.find(','))));
        hashes.remove_prefix(std::min(hashes.size(), std::size_t{17}));
    }
    const std::int64_t blocks = Blocks(slab.box.count, tensor.dtype).size();
    if (static_cast<std::int64_t>(slab.block_hashes.size()) != blocks)
        line.refuse(fmt::format("{} hashes for {} blocks", slab.block_hashes.size(), blocks));
    return slab;
}

void check_slabs_apart(const Manifest& manifest, const std::string& where) {
    struct Extent {
        int file;
        std::int64_t first, end;
        const TensorEntry* tensor;
    };
    std::vector<Extent> extents;
    for (const TensorEntry& tensor : manifest.tensors)
        for (const Slab& slab : tensor.slabs)
            extents.push_back({slab.file, slab.first_byte,
                               slab.first_byte + slab.box.count.count() * bytes_of(tensor.dtype), &tensor});
    std::sort(extents.begin(), extents.end(),
              [](const Extent& a, const Extent& b) { return std::tie(a.file, a.first) < std::tie(b.file, b.first); });
    for (std::size_t i = 1; i < extents.size(); ++i)
        if (extents[i].file == extents[i - 1].file && extents[i].first < extents[i - 1].end)
            throw ConfigError(fmt::format("{}: tensors '{}' and '{}' share bytes of {}", where,
                                          extents[i - 1].tensor->name, extents[i].tensor->name,
                                          manifest.files[static_cast<std::size_t>(extents[i].file)].name));
}

// The text before the end line, whose hash must be that of the text.
std::string_view checked_body(std::string_view text, const std::string& where) {
    if (text.size() < end_line_size || text.substr(text.size() - end_line_size, 4) != "end " || text.back() != '\n')
        throw ConfigError(fmt::format("{}: has no end line; it is cut off or was never finished", where));
    const std::string_view body = text.substr(0, text.size() - end_line_size);
    const std::string found =
        fmt::format("end {:016x}\n", Hash::of(body.data(), static_cast<std::int64_t>(body.size())));
    if (text.substr(body.size()) != found)
        throw ConfigError(fmt::format("{}: is damaged: its text does not have the hash in its last line", where));
    return body;
}

void parse_first_line(Line& line) {
    if (line.word("the kind of line") != "tessera-checkpoint") line.refuse("this is not the MANIFEST of a checkpoint");
    const std::int64_t version = line.number("format");
    if (version != manifest_version)
        line.refuse(fmt::format("written in format {}, this build reads format {}", version, manifest_version));
}

void parse_line(Line& line, Manifest& manifest, std::set<std::string, std::less<>>& names) {
    const std::string_view kind = line.word("the kind of line");
    if (kind == "step")
        manifest.step = line.number("step", greatest_step);
    else if (kind == "ranks")
        manifest.ranks = static_cast<int>(line.number("number of ranks", std::numeric_limits<int>::max()));
    else if (kind == "meta") {
        const std::string key = line.name("metadata key");
        manifest.metadata[key] = unescaped(line.rest(), line);
    } else if (kind == "index")
        manifest.index = parse_file(line);
    else if (kind == "file")
        manifest.files.push_back(parse_file(line));
    else if (kind == "tensor") {
        TensorEntry tensor;
        tensor.name = line.name("tensor name");
        tensor.dtype = line.dtype();
        tensor.whole = line.shape("shape", tensor.dtype);
        if (!names.insert(tensor.name).second) line.refuse(fmt::format("tensor '{}' is there twice", tensor.name));
        manifest.tensors.push_back(std::move(tensor));
    } else if (kind == "slab") {
        if (manifest.tensors.empty()) line.refuse("a slab of no tensor");
        TensorEntry& tensor = manifest.tensors.back();
        tensor.slabs.push_back(parse_slab(line, tensor, manifest.files));
    } else
        line.refuse(fmt::format("unknown kind of line '{}'", kind.substr(0, 80)));
}

} // namespace

Manifest parse_manifest(std::string_view text, const std::string& where) {
    std::string_view body = checked_body(text, where);
    Manifest manifest;
    std::set<std::string, std::less<>> names;
    for (std::int64_t number = 1; !body.empty(); ++number) {
        const std::size_t end = std::min(body.find('\n'), body.size());
        Line line(body.substr(0, end), where, number);
        body.remove_prefix(std::min(end + 1, body.size()));
        if (number == 1)
            parse_first_line(line);
        else
            parse_line(line, manifest, names);
        line.finish();
    }
    check_slabs_apart(manifest, where);
    return manifest;
}

} // namespace tessera
