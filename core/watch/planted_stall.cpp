// SPDX-License-Identifier: Apache-2.0
// The recorder is told of everything a rank begins: there a fault can wait for its moment.
#include "core/watch/planted_stall.hpp"

#include "kernels/error.hpp"
#include "kernels/nearest_name.hpp"
#include "parallel/communication/world.hpp"

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <fmt/format.h>
#include <map>
#include <sstream>
#include <string_view>
#include <thread>
#include <unistd.h>

namespace tessera {
namespace {

struct Place {
    Activity activity;
    Doing doing;
};

const std::map<std::string, Place, std::less<>> places{
    {"auditing", {Activity::auditing, Doing::nothing_told}},     {"computing", {Activity::training, Doing::computing}},
    {"evaluating", {Activity::evaluating, Doing::nothing_told}}, {"reading", {Activity::training, Doing::reading_data}},
    {"saving", {Activity::saving, Doing::nothing_told}},
};

class PlantedStall final : public FlightRecorder::Fault {
public:
    PlantedStall(Place place, std::int64_t step, std::string what, double seconds)
        : place_(place), step_(step), what_(std::move(what)), seconds_(seconds) {}

    bool at(Activity activity, Doing doing, std::int64_t step) override {
        if (done_ || activity != place_.activity || doing != place_.doing || step + 1 != step_) return false;
        done_ = true;
        if (what_ == "sleep") std::this_thread::sleep_for(std::chrono::duration<double>(seconds_));
        if (what_ == "spin")
            for (volatile bool ever = true; ever;) {
            }
        if (what_ == "exit") ::_exit(0);
        if (what_ == "leave") leave_early();
        if (what_ == "abort") std::abort();
        if (what_ == "stop") ::raise(SIGSTOP);
        return what_ == "skip";
    }

private:
    Place place_;
    std::int64_t step_;
    std::string what_;
    double seconds_;
    bool done_ = false;
};

} // namespace

std::unique_ptr<FlightRecorder::Fault> planted_stall(const std::string& fault, int rank) {
    std::istringstream words(fault);
    int of_rank = -1;
    std::int64_t step = -1;
    std::string where, what;
    words >> of_rank >> step >> where >> what;
    if (!words || of_rank < 0 || step < 0)
        throw ConfigError(fmt::format("no fault '{}': say RANK STEP WHERE WHAT, as in '2 5 reading sleep:30'", fault));
    const auto place = places.find(where);
    if (place == places.end())
        throw ConfigError(
            no_such_name("place of a fault", where, {"auditing", "computing", "evaluating", "reading", "saving"}));
    double seconds = 0;
    if (what.starts_with("sleep:")) {
        seconds = std::atof(what.c_str() + 6);
        what = "sleep";
        if (!(seconds > 0)) throw ConfigError(fmt::format("no fault '{}': sleep for how many seconds?", fault));
    }
    const std::vector<std::string_view> known{"abort", "exit", "leave", "skip", "sleep", "spin", "stop"};
    if (std::find(known.begin(), known.end(), what) == known.end() || (what == "sleep" && seconds == 0))
        throw ConfigError(no_such_name("fault", what, known));
    if (rank != of_rank) return nullptr;
    return std::make_unique<PlantedStall>(place->second, step, what, seconds);
}

} // namespace tessera
