// SPDX-License-Identifier: Apache-2.0
// Formats records and keeps RUN/metrics.jsonl. The only file here that includes nlohmann/json.
#include "core/run/metrics.hpp"

#include "core/run/source_counts.hpp"
#include "core/visible.hpp"
#include "core/with_thousands.hpp"
#include "kernels/error.hpp"

#include <algorithm>
#include <cmath>
#include <fmt/format.h>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>

namespace tessera {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::chrono::milliseconds redraw_interval{100};
constexpr double average_weight = 0.05; // of a new step in the moving average of seconds, about 20 steps

std::string duration(double seconds) { // 83 -> 0:01:23
    const auto whole = static_cast<std::int64_t>(std::llround(seconds));
    return fmt::format("{}:{:02}:{:02}", whole / 3600, whole / 60 % 60, whole % 60);
}

Json number(double value) { return std::isfinite(value) ? Json(value) : Json(nullptr); }

// The step of a line; -1 for one that is no record.
std::int64_t step_of(const std::string& line) {
    const Json record = Json::parse(line, nullptr, false);
    if (!record.is_object() || !record.contains("step") || !record["step"].is_number_integer()) return -1;
    return record["step"].get<std::int64_t>();
}

// Keeps the lines up to `last_step`; returns the path.
std::filesystem::path cut_file(const std::filesystem::path& path, std::int64_t last_step, Log& log) {
    std::error_code error;
    std::filesystem::create_directories(path.parent_path(), error);
    if (error) throw SystemError(fmt::format("cannot make the folder of {}: {}", path.string(), error.message()));
    std::ifstream file(path, std::ios::binary);
    std::string kept, line;
    std::int64_t broken = 0;
    while (last_step > 0 && std::getline(file, line)) {
        const std::int64_t step = file.eof() ? -1 : step_of(line); // a last line without its end was cut off
        if (step < 0)
            ++broken;
        else if (step <= last_step)
            kept += line + '\n';
    }
    replace_file(path, kept);
    if (broken > 0)
        log.warning(fmt::format("{}: lines that were no record and are dropped: {}", path.string(), broken));
    return path;
}

std::string text_of(const ToldNumbers& told) {
    std::string text;
    for (const auto& [name, value] : told)
        text += fmt::format("  {}: {:.4f}", name, value);
    return text;
}

void put(Json& json, const ToldNumbers& told) {
    for (const auto& [name, value] : told)
        json[name] = number(value);
}

constexpr std::size_t most_listed = 64; // ranks, each with its times

// Seconds of a step, the mean over steps and ranks, the same of the rank that did most by itself, and of each.
Json json_of(const StepTimes& times) {
    const auto steps = static_cast<double>(std::max<std::int64_t>(times.steps, 1));
    const auto ranks = static_cast<double>(times.ranks.size());
    const auto mean = [&](const auto& of) {
        double sum = 0;
        for (const RankTimes& rank : times.ranks)
            sum += of(rank);
        return number(sum / steps / ranks);
    };
    const std::vector<std::pair<const char*, std::function<double(const RankTimes&)>>> kinds{
        {"computing", &RankTimes::computing},
        {"communication", &RankTimes::communicated},
        {"input", &RankTimes::input},
        {"saving", &RankTimes::saving},
        {"evaluation", &RankTimes::evaluation}};
    const auto slowest = std::ranges::max_element(times.ranks, {}, &RankTimes::own);
    Json json{{"steps", times.steps}}, axes = Json::object(), of_slowest{{"rank", slowest - times.ranks.begin()}};
    for (const auto& [name, of] : kinds) {
        json[name] = mean(of);
        of_slowest[name] = number(of(*slowest) / steps);
    }
    for (std::size_t axis = 0; axis < times.axes.size(); ++axis)
        axes[times.axes[axis]] = mean([&](const RankTimes& rank) { return rank.communication[axis]; });
    json["communication_by_axis"] = axes;
    json["slowest"] = of_slowest;
    if (times.ranks.size() > most_listed) return json;
    for (const auto& [name, of] : kinds)
        for (const RankTimes& rank : times.ranks)
            json["ranks"][name].push_back(number(of(rank) / steps));
    return json;
}

} // namespace

std::string console_line(const StepRecord& record, double eta_seconds) {
    std::string line = fmt::format("step: {}/{}  loss: {:.4f}", record.step, record.steps, record.loss);
    line += text_of(record.told);
    if (!std::isfinite(record.grad_norm))
        line += "  grad_norm: not finite"; // a skipped step
    else if (record.grad_norm >= 0)
        line += fmt::format("  grad_norm: {:.3f}", record.grad_norm);
    if (!(record.dropped_fraction < 0))
        line += fmt::format("  balance_loss: {:.3f}  z_loss: {:.3g}  dropped: {:.1f}%", record.balance_loss,
                            record.z_loss, 100 * record.dropped_fraction);
    line += fmt::format("  lr: {:.2e}", record.learning_rate);
    if (!(record.loss_scale < 0)) line += fmt::format("  loss_scale: {}", record.loss_scale);
    if (record.skipped_steps > 0) line += fmt::format("  skipped: {}", record.skipped_steps);
    line += fmt::format("  {}/s: {}", record.unit == "token" ? "tok" : "samples",
                        with_thousands(std::llround(record.units_per_second)));
    if (!(record.tflops < 0)) line += fmt::format("  tflops: {:.2f}", record.tflops);
    if (!(record.mfu < 0)) line += fmt::format("  mfu: {:.1f}%", 100 * record.mfu);
    if (!(record.bubble < 0)) line += fmt::format("  bubble: {:.1f}%", 100 * record.bubble);
    if (!(eta_seconds < 0)) line += fmt::format("  eta: {}", duration(eta_seconds));
    return line;
}

std::string console_line(const EvaluationRecord& record) {
    const std::string perplexity =
        record.unit == "token" ? fmt::format("  perplexity: {:.2f}", std::exp(record.loss)) : "";
    std::string sources;
    for (const EvaluationRecord::Source& source : record.sources)
        sources +=
            fmt::format("{} '{}' {:.4f}", sources.empty() ? "  by source:" : ",", visible(source.name), source.loss);
    return fmt::format("evaluation: step: {}  loss: {:.4f}{}{}  {}s: {}{}{}{}", record.step, record.loss,
                       text_of(record.told), perplexity, record.unit, with_thousands(record.units), sources,
                       record.note.empty() ? "" : "  ", record.note);
}

std::string json_line(const StepRecord& record) {
    Json json{{"kind", "step"}, {"step", record.step}, {"steps", record.steps}, {"loss", number(record.loss)}};
    put(json, record.told);
    if (!(record.grad_norm < 0)) json["grad_norm"] = number(record.grad_norm);
    if (!(record.dropped_fraction < 0)) {
        json["balance_loss"] = number(record.balance_loss);
        json["z_loss"] = number(record.z_loss);
        json["dropped_fraction"] = number(record.dropped_fraction);
    }
    json["learning_rate"] = number(record.learning_rate);
    if (!(record.loss_scale < 0)) json["loss_scale"] = number(record.loss_scale);
    if (record.skipped_steps >= 0) json["skipped_steps"] = record.skipped_steps;
    if (!record.divergence.empty()) json["divergence"] = record.divergence;
    if (!record.fault.empty()) json["fault"] = visible(record.fault);
    json[fmt::format("{}s_per_second", record.unit)] = number(record.units_per_second);
    if (!(record.tflops < 0)) json["tflops"] = number(record.tflops);
    if (!(record.mfu < 0)) json["mfu"] = number(record.mfu);
    if (!(record.weights_wait < 0)) json["weights_wait"] = number(record.weights_wait);
    if (!(record.bubble < 0)) json["bubble"] = number(record.bubble);
    json["seconds"] = number(record.seconds);
    json["input_wait"] = number(record.input_wait);
    json[fmt::format("{}s", record.unit)] = record.units;
    if (!record.times.ranks.empty()) json["times"] = json_of(record.times);
    return json.dump();
}

std::string json_line(const EvaluationRecord& record) {
    Json json{{"kind", "evaluation"}, {"step", record.step}, {"loss", number(record.loss)}};
    put(json, record.told);
    if (record.unit == "token") json["perplexity"] = number(std::exp(record.loss));
    json[fmt::format("{}s", record.unit)] = record.units;
    for (const EvaluationRecord::Table& table : record.tables) {
        Json rows = Json::array();
        for (std::size_t i = 0; i < table.counts.size(); ++i) {
            if (i % static_cast<std::size_t>(table.columns) == 0) rows.push_back(Json::array());
            rows.back().push_back(static_cast<std::int64_t>(table.counts[i]));
        }
        json[table.name] = std::move(rows);
    }
    for (const EvaluationRecord::Source& source : record.sources) {
        Json of_source{{"name", visible(source.name)}, {"loss", number(source.loss)}};
        put(of_source, source.told);
        of_source[fmt::format("{}s", record.unit)] = source.units;
        json["sources"].push_back(std::move(of_source));
    }
    if (!record.note.empty()) json["note"] = record.note;
    return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::string json_line(const CheckpointRecord& record) {
    return Json{{"kind", "checkpoint"},
                {"step", record.step},
                {"stall", number(record.stall)},
                {"seconds", number(record.seconds)},
                {"bytes", record.bytes}}
        .dump();
}

std::string json_line(const RollbackRecord& record) {
    const Json json{{"kind", "rollback"}, {"step", record.step}, {"to", record.to}, {"from", visible(record.from)}};
    return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

Metrics::Metrics(Log& log, const Config& config, const std::filesystem::path& run_folder, std::int64_t resumed_step)
    : log_(log), log_every_(log_every(config)),
      file_(cut_file(run_folder / "metrics.jsonl", resumed_step, log), TextFile::Mode::append) {}

std::int64_t Metrics::log_every(const Config& config) {
    const std::int64_t every = config.get(metrics_log_every);
    if (every < 1) config.refuse(metrics_log_every.name, "expected at least 1");
    return every;
}

void Metrics::write(const std::string& line) {
    const std::string failure = file_.write_whole(line + '\n');
    if (!failure.empty() && missing_++ == 0)
        log_.warning(fmt::format("{}; training goes on, and this file without what it could not take", failure));
    if (!failure.empty() || missing_ == 0) return;
    log_.warning(fmt::format("metrics.jsonl can be written to again, lines that are missing: {}", missing_));
    missing_ = 0;
}

void Metrics::step(const StepRecord& record) {
    write(json_line(record));
    if (!record.fault.empty()) log_.warning(record.fault);
    if (!record.divergence.empty())
        log_.warning(fmt::format("step {} changes nothing: {}", record.step, record.divergence));
    const double remaining = eta(record);
    const bool due = record.step % log_every_ == 0 || logged_ == 0 || record.step == record.steps;
    ++logged_;
    if (due) {
        log_.info(console_line(record, remaining));
        return;
    }
    const auto now = std::chrono::steady_clock::now();
    if (!log_.on_terminal() || now - redrawn_ < redraw_interval) return;
    redrawn_ = now;
    log_.progress(console_line(record, remaining));
}

void Metrics::evaluation(const EvaluationRecord& record) {
    write(json_line(record));
    log_.info(console_line(record));
}

void Metrics::checkpoint(const CheckpointRecord& record) { write(json_line(record)); }

void Metrics::rollback(const RollbackRecord& record) { write(json_line(record)); }

void Metrics::skipped(std::int64_t step, std::string_view kind, std::int64_t count, std::string_view first) {
    const Json json{
        {"kind", "skipped"}, {"step", step}, {"records", kind}, {"count", count}, {"first", visible(first)}};
    write(json.dump(-1, ' ', false, Json::error_handler_t::replace));
}

void Metrics::sources(std::int64_t step, const std::vector<SourceCount>& counts) {
    Json json{{"kind", "sources"}, {"step", step}, {"sources", Json::array()}};
    for (const SourceCount& count : counts)
        json["sources"].push_back(Json{{"name", visible(count.name)},
                                       {"samples", count.samples},
                                       {"units", count.units},
                                       {"epochs", count.epochs}});
    write(json.dump(-1, ' ', false, Json::error_handler_t::replace));
}

double Metrics::eta(const StepRecord& record) {
    const double weight = step_seconds_ < 0 ? 1 : average_weight;
    step_seconds_ = (1 - weight) * step_seconds_ + weight * record.seconds;
    return step_seconds_ * static_cast<double>(record.steps - record.step);
}

} // namespace tessera
