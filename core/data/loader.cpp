// SPDX-License-Identifier: Apache-2.0
// A ring of micro-batches between reading threads and one taker; all copy outside the lock.
#include "core/data/loader.hpp"

#include "kernels/copy.hpp"
#include "kernels/error.hpp"

#include <algorithm>
#include <array>
#include <chrono>
#include <fmt/format.h>
#include <utility>

namespace tessera {
namespace {

constexpr std::size_t rows_ahead = 2; // that are drawn near: reading two takes longer than memory does

Shape batch_shape(std::int64_t rows, const Shape& row) {
    Shape shape{rows};
    for (int dim = 0; dim < row.rank(); ++dim)
        shape.append(row[dim]);
    return shape;
}

std::int64_t field_bytes(const Field& field, std::int64_t rows) {
    return rows * field.shape.count() * bytes_of(field.dtype);
}

// Of a micro-batch of these fields.
std::int64_t slot_bytes(const std::vector<Field>& fields, const LoaderOptions& options) {
    std::int64_t bytes = 0;
    for (const Field& field : fields)
        bytes += align_up(field_bytes(field, options.micro_batch_size));
    return bytes;
}

void check(const LoaderOptions& options) {
    const std::int64_t last = options.first_micro_batch + (options.micro_batches - 1) * options.stride;
    const std::int64_t end = options.micro_batches == 0 ? options.first_micro_batch : last + 1;
    if (options.first_micro_batch < 0 || options.micro_batches < 0 || end > options.micro_batches_per_step)
        throw InternalError(fmt::format("loader: micro-batches [{}, {}) of a step of {}", options.first_micro_batch,
                                        end, options.micro_batches_per_step));
    if (options.micro_batch_size < 1 || options.prefetch < 0 || options.threads < 1)
        throw InternalError(fmt::format("loader: micro-batches of {} rows, {} of them read ahead by {} threads",
                                        options.micro_batch_size, options.prefetch, options.threads));
    if (options.first_step < 0 || options.end_step < options.first_step)
        throw InternalError(fmt::format("loader: steps [{}, {})", options.first_step, options.end_step));
}

} // namespace

Loader::Loader(const Dataset& dataset, const SampleOrder& order, const LoaderOptions& options, Buffer slots)
    : dataset_(dataset), order_(order), options_(options),
      fields_(options.augmentation.fields_given(dataset.form().fields)) {
    check(options_);
    if (options_.first_sample < 0)
        options_.first_sample = options_.first_step * options_.micro_batches_per_step * options_.micro_batch_size;
    for (const Field& field : fields_) {
        field_offsets_.push_back(slot_bytes_);
        slot_bytes_ += align_up(field_bytes(field, options_.micro_batch_size));
    }
    options_.prefetch = slots_for(fields_, options_);
    micro_batches_ = (options_.end_step - options_.first_step) * options_.micro_batches;
    slots_ = slots.bytes() > 0 ? std::move(slots) : Buffer(buffer_bytes(dataset.form().fields, options_));
    // Four for each thread, so that none waits long for the last; whole where each sample is mixed with the next.
    const bool whole = options_.threads == 1 || options_.augmentation.mixes();
    piece_rows_ =
        whole ? options_.micro_batch_size : (options_.micro_batch_size - 1) / (4 * std::int64_t{options_.threads}) + 1;
    pieces_ = (options_.micro_batch_size - 1) / piece_rows_ + 1;
    left_.assign(static_cast<std::size_t>(options_.prefetch), pieces_);
    const auto work = static_cast<std::int64_t>(options_.threads);
    for (std::int64_t i = 0; i < std::min(work, micro_batches_ * pieces_); ++i)
        threads_.emplace_back([this](const std::stop_token& stop) { read_ahead(stop); });
}

Loader::~Loader() {
    for (std::jthread& thread : threads_)
        thread.request_stop(); // their own destructors wait for them
}

// Small ones are computed so fast that half of them must last as long as a core's other thread may run on before one
// that was woken is let in: some 5 ms of Linux.
int Loader::slots_for(const std::vector<Field>& fields, const LoaderOptions& options) {
    constexpr std::int64_t least = 4, most = 1024, bytes = std::int64_t{16} << 20;
    if (options.prefetch > 0) return options.prefetch;
    return static_cast<int>(std::clamp(bytes / std::max<std::int64_t>(slot_bytes(fields, options), 1), least, most));
}

std::int64_t Loader::buffer_bytes(const std::vector<Field>& fields, const LoaderOptions& options) {
    const std::vector<Field> given = options.augmentation.fields_given(fields);
    return slot_bytes(given, options) * slots_for(given, options);
}

Buffer loader_memory(const Stream& stream, const std::vector<Field>& fields, const LoaderOptions& options) {
    const std::int64_t bytes = Loader::buffer_bytes(fields, options);
    return std::visit([&](const auto& s) { return allocate_host(s, bytes); }, stream);
}

View Loader::slot_view(std::int64_t number, std::size_t field) const {
    std::byte* slot = slots_.data() + number % options_.prefetch * slot_bytes_;
    return {slot + field_offsets_[field], batch_shape(options_.micro_batch_size, fields_[field].shape),
            fields_[field].dtype};
}

void Loader::read_ahead(const std::stop_token& stop) {
    Scratch scratch;
    for (std::int64_t piece = claim_piece(stop); piece >= 0; piece = claim_piece(stop)) {
        try {
            read_piece(piece, scratch, stop);
        } catch (...) { // handed to who waits in next()
            const std::lock_guard lock(mutex_);
            if (failure_ == nullptr || piece < failed_piece_) {
                failure_ = std::current_exception();
                failed_piece_ = piece;
            }
            --reading_;
            changed_.notify_all();
            return;
        }
        if (stop.stop_requested()) return;
        finish_piece(piece);
    }
}

std::int64_t Loader::claim_piece(const std::stop_token& stop) {
    std::unique_lock lock(mutex_);
    const auto over = [&] { return failure_ != nullptr || claimed_ == micro_batches_ * pieces_; };
    const bool woken =
        changed_.wait(lock, stop, [&] { return over() || claimed_ / pieces_ - taken_ < options_.prefetch; });
    if (!woken || over()) return -1;
    ++reading_;
    return claimed_++;
}

void Loader::finish_piece(std::int64_t piece) {
    const std::lock_guard lock(mutex_);
    --reading_;
    const auto slot_of = [&](std::int64_t number) { return static_cast<std::size_t>(number % options_.prefetch); };
    --left_[slot_of(piece / pieces_)];
    for (; left_[slot_of(read_)] == 0; ++read_)
        left_[slot_of(read_)] = pieces_; // of the micro-batch that comes there next
    changed_.notify_all();
}

void Loader::read_piece(std::int64_t piece, Scratch& scratch, const std::stop_token& stop) {
    const std::int64_t number = piece / pieces_, step = number / options_.micro_batches; // after the first
    const std::int64_t micro_batch = options_.first_micro_batch + number % options_.micro_batches * options_.stride;
    const std::int64_t first_row =
        options_.first_sample + (step * options_.micro_batches_per_step + micro_batch) * options_.micro_batch_size;
    if (options_.augmentation.mixes()) return read_mixed(number, first_row, scratch, stop);
    std::vector<View> views(fields_.size());
    const std::int64_t begin = piece % pieces_ * piece_rows_;
    const std::int64_t end = std::min(begin + piece_rows_, options_.micro_batch_size);
    find_places(first_row + begin, first_row + end, scratch);
    for (std::int64_t row = begin; row < end && !stop.stop_requested(); ++row) {
        for (std::size_t f = 0; f < fields_.size(); ++f)
            views[f] = row_view(number, f, row);
        read_sample(static_cast<std::size_t>(row - begin), views, scratch);
    }
}

View Loader::row_view(std::int64_t number, std::size_t field, std::int64_t row) const {
    std::byte* rows = static_cast<std::byte*>(slot_view(number, field).memory());
    return {rows + field_bytes(fields_[field], row), fields_[field].shape, fields_[field].dtype};
}

void Loader::find_places(std::int64_t begin, std::int64_t end, Scratch& scratch) const {
    scratch.places.clear();
    for (std::int64_t index = begin; index < end; ++index)
        scratch.places.push_back(order_.place(index));
    for (std::size_t row = 0; row < std::min(rows_ahead, scratch.places.size()); ++row)
        dataset_.expect(options_.split, scratch.places[row].sample);
}

// Of those whose places are found.
void Loader::read_sample(std::size_t row, std::span<const View> views, Scratch& scratch) {
    const SampleOrder::Place place = scratch.places[row];
    if (const std::size_t later = row + rows_ahead; later < scratch.places.size())
        dataset_.expect(options_.split, scratch.places[later].sample);
    dataset_.read(options_.split, place.sample, views);
    if (!options_.augmentation.changes()) return;
    scratch.black.clear();
    for (std::int64_t channel = 0; channel < views[0].shape[-1]; ++channel)
        scratch.black.push_back(dataset_.black(place.sample, channel));
    options_.augmentation.apply(place.epoch, place.sample, scratch.black, views[0], scratch.room);
}

// Each sample with the one that comes next in the run's order, whoever reads that one, too: of a micro-batch one more
// than it has.
void Loader::read_mixed(std::int64_t number, std::int64_t first_row, Scratch& scratch, const std::stop_token& stop) {
    const std::int64_t rows = options_.micro_batch_size;
    scratch.next.resize(static_cast<std::size_t>(fields_[0].shape.count()));
    scratch.labels.resize(static_cast<std::size_t>(rows) + 1);
    find_places(first_row, first_row + rows + 1, scratch);
    const View behind(scratch.next.data(), fields_[0].shape, DType::f32);
    for (std::int64_t row = 0; row <= rows; ++row) {
        if (stop.stop_requested()) return;
        const View label(&scratch.labels[static_cast<std::size_t>(row)], {}, DType::i32);
        read_sample(static_cast<std::size_t>(row), std::array{row < rows ? row_view(number, 0, row) : behind, label},
                    scratch);
    }
    for (std::int64_t row = 0; row < rows; ++row) { // the next one is still as it was read
        const auto at = static_cast<std::size_t>(row);
        const float share = options_.augmentation.share(scratch.places[at].epoch, scratch.places[at].sample);
        Augmentation::mix(share, row + 1 < rows ? row_view(number, 0, row + 1) : behind, row_view(number, 0, row));
        options_.augmentation.mix_labels(share, scratch.labels[at], scratch.labels[at + 1], row_view(number, 1, row));
    }
}

void Loader::wait_for(std::int64_t number) {
    std::unique_lock lock(mutex_);
    // A thread that has failed leaves those to finish that read what came before.
    const auto there = [&] { return read_ > number || (failure_ != nullptr && reading_ == 0); };
    if (!there()) {
        const auto start = std::chrono::steady_clock::now();
        changed_.wait(lock, there);
        seconds_waited_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    }
    if (read_ <= number) std::rethrow_exception(failure_);
}

void Loader::release_until(std::int64_t number) {
    const std::lock_guard lock(mutex_);
    taken_ = number;
    // Threads that wait for room are woken when half of it is free, and not for each micro-batch: on a core that they
    // share with the taker each waking is a change of threads. Who waits in next() has taken all there was.
    if (claimed_ / pieces_ - taken_ <= options_.prefetch / 2) changed_.notify_all();
}

void Loader::next(Stream& stream, std::span<const View> batch) {
    if (batch.size() != fields_.size())
        throw InternalError(fmt::format("loader: {} views for {} fields", batch.size(), fields_.size()));
    const std::int64_t number = given_;
    if (number == micro_batches_)
        throw InternalError(fmt::format("loader: all {} micro-batches are taken", micro_batches_));
    for (std::size_t f = 0; f < fields_.size(); ++f) {
        const View slot = slot_view(number, f);
        if (batch[f].memory() == nullptr) continue;
        if (batch[f].shape != slot.shape || batch[f].dtype != slot.dtype)
            throw InternalError(fmt::format("loader: '{}' is {} {}, its view {} {}", fields_[f].name,
                                            name_of(slot.dtype), slot.shape.text(), name_of(batch[f].dtype),
                                            batch[f].shape.text()));
    }
    std::visit([](auto& s) { kernels::end_uploads(s); }, stream);
    release_until(number);
    wait_for(number);
    for (std::size_t f = 0; f < fields_.size(); ++f)
        if (batch[f].memory() != nullptr)
            std::visit([&](auto& s) { kernels::begin_upload(s, slot_view(number, f), batch[f]); }, stream);
    given_ = number + 1;
    if (std::holds_alternative<CpuStream>(stream)) release_until(given_); // the copy is there already
}

} // namespace tessera
