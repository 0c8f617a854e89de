// SPDX-License-Identifier: Apache-2.0
// MANIFEST as text, its hash, its names, and the proof that its slabs cover every tensor once. The parser has a file of
// its own.
#include "core/checkpoint/manifest.hpp"

#include "kernels/error.hpp"

#include <algorithm>
#include <fmt/format.h>
#include <set>
#include <xxhash.h>

namespace tessera {
namespace {

std::string escaped(std::string_view text) {
    std::string result;
    for (const char letter : text) {
        if (letter == '\n')
            result += "\\n";
        else if (letter == '\\')
            result += "\\\\";
        else if (static_cast<unsigned char>(letter) < 0x20 || letter == 0x7f)
            result += fmt::format("\\x{:02x}", static_cast<unsigned char>(letter));
        else
            result += letter;
    }
    return result;
}

std::string shape_text(const Shape& shape) {
    std::vector<std::int64_t> sizes;
    for (int dim = 0; dim < shape.rank(); ++dim)
        sizes.push_back(shape[dim]);
    return numbers_text(sizes);
}

} // namespace

Hash::Hash() : state_(XXH3_createState()) { XXH3_64bits_reset(static_cast<XXH3_state_t*>(state_)); }
Hash::~Hash() { XXH3_freeState(static_cast<XXH3_state_t*>(state_)); }
void Hash::add(const void* data, std::int64_t bytes) {
    XXH3_64bits_update(static_cast<XXH3_state_t*>(state_), data, static_cast<std::size_t>(bytes));
}
std::uint64_t Hash::value() const { return XXH3_64bits_digest(static_cast<const XXH3_state_t*>(state_)); }
std::uint64_t Hash::of(const void* data, std::int64_t bytes) {
    return XXH3_64bits(data, static_cast<std::size_t>(bytes));
}

std::string numbers_text(const std::vector<std::int64_t>& numbers) {
    return fmt::format("({})", fmt::join(numbers, ","));
}

bool is_valid_name(std::string_view name) {
    const auto is_plain = [](char letter) {
        return (letter >= 'a' && letter <= 'z') || (letter >= 'A' && letter <= 'Z') ||
               (letter >= '0' && letter <= '9') || letter == '_' || letter == '.' || letter == '-';
    };
    if (name.size() > 1000) return false;
    while (true) {
        const std::size_t slash = name.find('/');
        const std::string_view component = name.substr(0, slash);
        if (component.empty() || component == "." || component.find("..") != std::string_view::npos) return false;
        if (!std::all_of(component.begin(), component.end(), is_plain)) return false;
        if (slash == std::string_view::npos) return true;
        name.remove_prefix(slash + 1);
    }
}

std::string text_of(const Manifest& manifest) {
    std::string text =
        fmt::format("tessera-checkpoint {}\nstep {}\nranks {}\n", manifest_version, manifest.step, manifest.ranks);
    for (const auto& [key, value] : manifest.metadata)
        text += fmt::format("meta {} {}\n", key, escaped(value));
    if (!manifest.index.name.empty())
        text += fmt::format("index {} {} {:016x}\n", manifest.index.name, manifest.index.bytes, manifest.index.hash);
    for (const FileEntry& file : manifest.files)
        text += fmt::format("file {} {} {:016x}\n", file.name, file.bytes, file.hash);
    for (const TensorEntry& tensor : manifest.tensors) {
        text += fmt::format("tensor {} {} {}\n", tensor.name, name_of(tensor.dtype), shape_text(tensor.whole));
        for (const Slab& slab : tensor.slabs)
            text += fmt::format("slab {} {} {} {} {} {:016x}\n", slab.file, numbers_text(slab.box.start),
                                shape_text(slab.box.count), slab.first_byte, slab.dataset,
                                fmt::join(slab.block_hashes, ","));
    }
    return text + fmt::format("end {:016x}\n", Hash::of(text.data(), static_cast<std::int64_t>(text.size())));
}

namespace {

// Boxes inside a tensor, no two of which meet and whose counts add up to the tensor's, cover it once.
std::optional<std::string> find_uncovered(const TensorEntry& tensor, const std::vector<FileEntry>& files) {
    const auto start_of = [](const Slab* slab, int dim) { return slab->box.start[static_cast<std::size_t>(dim)]; };
    std::vector<const Slab*> slabs;
    for (const Slab& slab : tensor.slabs)
        slabs.push_back(&slab);
    int sweep_dim = -1; // along the dim with the most different starts, few boxes meet
    std::size_t most = 0;
    for (int dim = 0; dim < tensor.whole.rank(); ++dim) {
        std::set<std::int64_t> starts;
        for (const Slab* slab : slabs)
            starts.insert(start_of(slab, dim));
        if (starts.size() > most) sweep_dim = dim;
        most = std::max(most, starts.size());
    }
    if (sweep_dim >= 0)
        std::sort(slabs.begin(), slabs.end(),
                  [&](const Slab* a, const Slab* b) { return start_of(a, sweep_dim) < start_of(b, sweep_dim); });
    std::int64_t missing = tensor.whole.count();
    for (std::size_t i = 0; i < slabs.size(); ++i) {
        const TensorBox& box = slabs[i]->box;
        for (std::size_t j = i + 1; j < slabs.size(); ++j) {
            if (sweep_dim >= 0 && start_of(slabs[j], sweep_dim) >= box.end(sweep_dim)) break;
            if (intersection(box, slabs[j]->box).count.count() > 0)
                return fmt::format("tensor '{}' {}: {} in {} and {} in {} overlap", tensor.name, tensor.whole.text(),
                                   box.text(), files[static_cast<std::size_t>(slabs[i]->file)].name,
                                   slabs[j]->box.text(), files[static_cast<std::size_t>(slabs[j]->file)].name);
        }
        missing -= box.count.count();
    }
    if (missing == 0) return {};
    return fmt::format("tensor '{}' {}: {} of its {} elements are in no file", tensor.name, tensor.whole.text(),
                       missing, tensor.whole.count());
}

} // namespace

std::optional<std::string> find_uncovered(const Manifest& manifest) {
    for (const TensorEntry& tensor : manifest.tensors)
        if (std::optional<std::string> found = find_uncovered(tensor, manifest.files)) return found;
    return {};
}

} // namespace tessera
