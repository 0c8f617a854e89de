// SPDX-License-Identifier: Apache-2.0
// Numbers of eight bytes, little end first as all hosts of a job have it, and texts behind their length.
#include "core/watch/stall_report.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

namespace tessera {
namespace {

constexpr std::size_t most_calls = 128, most_text = 256;

class Writer {
public:
    void number(std::int64_t value) { bytes_.append(reinterpret_cast<const char*>(&value), sizeof value); }
    void real(double value) { number(std::bit_cast<std::int64_t>(value)); }
    void text(std::string_view value) {
        const std::string_view kept = value.substr(0, most_text);
        number(static_cast<std::int64_t>(kept.size()));
        bytes_ += kept;
    }
    std::string take() { return std::move(bytes_); }

private:
    std::string bytes_;
};

// Once anything is wrong all that follows is 0, and ok() false.
class Reader {
public:
    explicit Reader(std::string_view bytes) : bytes_(bytes) {}

    std::int64_t number() {
        std::int64_t value = 0;
        if (bytes_.size() < sizeof value) return fail();
        std::memcpy(&value, bytes_.data(), sizeof value);
        bytes_.remove_prefix(sizeof value);
        return value;
    }
    std::int64_t number(std::int64_t least, std::int64_t most) {
        const std::int64_t value = number();
        return value < least || value > most ? fail() : value;
    }
    template <class Enumeration> Enumeration one_of(Enumeration last) {
        return static_cast<Enumeration>(number(0, static_cast<std::int64_t>(last)));
    }
    double real() {
        const double value = std::bit_cast<double>(number());
        if (std::isfinite(value) && value >= 0) return value;
        fail();
        return 0;
    }
    std::string text() {
        const auto size = static_cast<std::size_t>(number(0, most_text));
        if (size > bytes_.size()) {
            fail();
            return {};
        }
        std::string value(bytes_.substr(0, size));
        bytes_.remove_prefix(size);
        return value;
    }
    bool ok() const { return ok_; }
    bool at_end() const { return bytes_.empty(); }

private:
    std::int64_t fail() {
        ok_ = false;
        bytes_ = {};
        return 0;
    }

    std::string_view bytes_;
    bool ok_ = true;
};

constexpr std::int64_t most_number = std::int64_t{1} << 62;
constexpr std::int64_t most_rank = 1 << 24;

void write(Writer& to, const ReportedCall& one) {
    const CallRecord& call = one.call;
    to.number(call.number);
    to.number(call.axis);
    to.number(static_cast<std::int64_t>(call.kind));
    to.number(static_cast<std::int64_t>(call.state));
    to.number(static_cast<std::int64_t>(call.dtype));
    to.number(call.peer);
    to.number(call.bytes);
    to.text(call.name);
    to.real(std::max(one.age, 0.0));
}

ReportedCall read_call(Reader& from) {
    ReportedCall one;
    CallRecord& call = one.call;
    call.number = from.number(0, most_number);
    call.axis = static_cast<int>(from.number(0, 255));
    call.kind = from.one_of(CallKind::receive);
    call.state = from.one_of(CallState::queued);
    call.dtype = from.one_of(DType::f8e5m2);
    call.peer = static_cast<int>(from.number(-1, most_rank));
    call.bytes = from.number(0, most_number);
    call.name = from.text();
    one.age = from.real();
    return one;
}

double age(std::int64_t begun) { return std::max(static_cast<double>(monotonic_now() - begun) * 1e-9, 0.0); }

} // namespace

RankReport report_of(const FlightView& page, const RankPlace& place, std::size_t calls) {
    RankReport report;
    report.place = place;
    report.state = page.state();
    report.activity_age = age(report.state.activity_begun);
    report.doing_age = age(report.state.doing_begun);
    report.step_age = age(report.state.in_step ? report.state.step_begun : report.state.doing_begun);
    for (const CallRecord& call : page.calls(std::min(calls, most_calls)))
        report.calls.push_back({call, age(call.begun)});
    std::vector<std::int64_t> times = page.step_times();
    if (!times.empty()) {
        const auto middle = times.begin() + static_cast<std::ptrdiff_t>(times.size() / 2);
        std::nth_element(times.begin(), middle, times.end());
        report.median = std::max(static_cast<double>(*middle) * 1e-9, 0.0);
    }
    return report;
}

std::string encoded(const RankReport& report) {
    Writer to;
    to.number(report.place.rank);
    to.text(report.place.host);
    to.number(report.place.pid);
    to.number(static_cast<std::int64_t>(report.contact));
    to.number(report.process);
    to.real(report.silence);
    to.number(report.overdue ? 1 : 0);
    to.real(report.deadline);
    to.real(report.median);
    const FlightState& state = report.state;
    to.number(static_cast<std::int64_t>(state.activity));
    to.number(static_cast<std::int64_t>(state.doing));
    to.number(state.step);
    to.number(state.micro_batch);
    to.number(state.in_step ? 1 : 0);
    to.number(state.calls);
    to.number(state.steps_timed);
    to.text(state.work);
    to.real(report.activity_age);
    to.real(report.doing_age);
    to.real(report.step_age);
    const std::size_t calls = std::min(report.calls.size(), most_calls);
    to.number(static_cast<std::int64_t>(calls));
    for (std::size_t i = 0; i < calls; ++i)
        write(to, report.calls[i]);
    return to.take();
}

std::optional<RankReport> decoded(std::string_view bytes) {
    if (bytes.size() > most_message_bytes) return std::nullopt;
    Reader from(bytes);
    RankReport report;
    report.place.rank = static_cast<int>(from.number(0, most_rank));
    report.place.host = from.text();
    report.place.pid = from.number(0, most_number);
    report.contact = from.one_of(Contact::left);
    report.process = static_cast<char>(from.number(0, 127));
    report.silence = from.real();
    report.overdue = from.number(0, 1) != 0;
    report.deadline = from.real();
    report.median = from.real();
    FlightState& state = report.state;
    state.activity = from.one_of(Activity::finishing);
    state.doing = from.one_of(Doing::waiting_for_gpu);
    state.step = from.number(-1, most_number);
    state.micro_batch = from.number(-1, most_number);
    state.in_step = from.number(0, 1) != 0;
    state.calls = from.number(0, most_number);
    state.steps_timed = from.number(0, most_number);
    state.work = from.text();
    report.activity_age = from.real();
    report.doing_age = from.real();
    report.step_age = from.real();
    const std::int64_t calls = from.number(0, most_calls);
    for (std::int64_t i = 0; i < calls && from.ok(); ++i)
        report.calls.push_back(read_call(from));
    if (!from.ok() || !from.at_end()) return std::nullopt;
    return report;
}

} // namespace tessera
