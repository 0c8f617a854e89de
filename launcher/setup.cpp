// SPDX-License-Identifier: Apache-2.0
// Ranks, threads, data and checkpoints for train, plan, evaluate and generate.
#include "launcher/setup.hpp"

#include "core/config_catalog.hpp"
#include "core/data/options.hpp"
#include "core/run/tuning.hpp"
#include "kernels/error.hpp"
#include "kernels/matmul.hpp"
#include "kernels/nearest_name.hpp"

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fmt/format.h>
#include <sched.h>
#include <sys/prctl.h>
#include <unistd.h>

namespace tessera {

namespace {

// Ranks that outlive their launcher would compute on for nobody. mpirun and srun end theirs, but for those that have
// been killed themselves.
void end_with_launcher() {
    const bool launched = std::getenv("OMPI_COMM_WORLD_RANK") != nullptr || std::getenv("PMIX_RANK") != nullptr;
    if (!launched) return;
    const pid_t parent = ::getppid();
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (::getppid() != parent) ::raise(SIGKILL); // it went just before
}

} // namespace

World& start_world(Process& process) {
    end_with_launcher();
    auto world = std::make_shared<World>();
    process.world = world;
    if (world->size() == 1) return *world;
    process.rank = world->rank();
    process.abort = [world](int code) { world->abort(code); };
    return *world;
}

RankView view_of(const World& world) { return {world.rank(), world.size(), world.local_size() == world.size()}; }

namespace {

Stream cpu_stream(const Config& config) {
    std::int64_t threads = config.get(run_threads);
    if (threads < 0 || threads > 4096) config.refuse(run_threads.name, "must be from 0 to 4096");
    const char* environment = std::getenv("OMP_NUM_THREADS");
    if (threads == 0 && environment != nullptr) threads = std::clamp(std::atoll(environment), 1LL, 4096LL);
    return Stream(std::in_place_type<CpuStream>, static_cast<int>(std::max<std::int64_t>(threads, 1)));
}

// auto, cpu or cuda
std::string device_named(const Config& config) {
    const std::string device = config.get(run_device);
    if (device != "auto" && device != "cpu" && device != "cuda")
        config.refuse(run_device.name, no_such_name("device", device, {"auto", "cpu", "cuda"}));
    return device;
}

} // namespace

namespace {

CudaOptions gpu_options(const Config& config, bool tunes) {
    const bool wanted = config.get(run_tune);
    return {.tf32 = config.get(training_dtype) == "tf32", .tune = tunes && wanted};
}

} // namespace

Stream make_stream(const Config& config, const World* world, bool tunes) {
    Stream cpu = cpu_stream(config); // these read their keys in any case
    const CudaOptions options = gpu_options(config, tunes);
    const bool shared = config.get(run_share_gpus);
    const std::string device = device_named(config);
    if (device == "cpu") return cpu;
    const int ranks = world == nullptr ? 1 : world->local_size();
    const int wanted = shared ? 1 : ranks;
    const int gpus = gpu_count();
    if (device == "auto") {
        const bool enough = gpus >= wanted;
        if (world == nullptr ? !enough : !world->group().all(enough)) return cpu;
    } else if (gpus < wanted) {
        config.refuse(run_device.name,
                      !built_with_cuda
                          ? "this program was built without CUDA"
                          : fmt::format("is \"cuda\", but this host has {} for its {}: NCCL wants one GPU per rank",
                                        counted(gpus, "GPU"), counted(ranks, "rank")));
    }
    Stream gpu = gpu_stream(world == nullptr ? 0 : world->local_rank() % gpus, options);
    if (config.get(training_linear_dtype) == "f8" &&
        !std::visit([](const auto& s) { return kernels::matmul_has_f8(s); }, gpu))
        config.refuse(training_linear_dtype.name,
                      "\"f8\" wants GPUs of compute capability 8.9 or more, which this host's "
                      "is not: say \"same\"");
    return gpu;
}

Stream make_planning_stream(const Config& config) {
    Stream cpu = cpu_stream(config);
    const CudaOptions options = gpu_options(config, true);
    config.get(run_share_gpus); // which GPU it is makes no difference to a plan
    const std::string device = device_named(config);
    const bool gpu = device == "cuda" || (device == "auto" && gpu_count() > 0);
    if (gpu && !built_with_cuda) config.refuse(run_device.name, "this program was built without CUDA");
    return gpu ? planning_gpu_stream(options) : std::move(cpu);
}

// NCCL refuses two ranks on one GPU; what stands in for it there waits for the stream within each collective, which a
// capture does not allow.
std::string settle_cuda_graph(Config& config, const World& world, const Stream& stream) {
    if (!config.get(run_cuda_graph) || std::holds_alternative<CpuStream>(stream)) return {};
    if (world.group().all(gpu_count() >= world.local_size())) return {};
    const std::string reason = "ranks that share a GPU wait within each collective, which no record of a step can hold";
    if (config.is_set(run_cuda_graph.name)) config.refuse(run_cuda_graph.name, reason + " (run.share_gpus)");
    config.settle(run_cuda_graph.name, false);
    return fmt::format("run.cuda_graph is off: {}", reason);
}

Stream make_host_stream(const Stream& stream) {
    const auto* cpu = std::get_if<CpuStream>(&stream);
    return cpu == nullptr ? CpuStream(1) : *cpu;
}

std::string thread_warning(const World& world, const Stream& stream) {
    cpu_set_t allowed;
    CPU_ZERO(&allowed);
    if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return {};
    const int cores = CPU_COUNT(&allowed);
    const auto* cpu = std::get_if<CpuStream>(&stream);
    const int threads = cpu == nullptr ? 1 : cpu->threads();
    if (threads > cores)
        return fmt::format("rank {} has {} threads on {}: bind it to more cores (mpirun --map-by slot:PE={} "
                           "--bind-to core) or start it with `tessera launch`",
                           world.rank(), threads, counted(cores, "core"), threads);
    return {};
}

std::unique_ptr<Dataset> open_data(const Config& config, const std::string& tokenizer_json) {
    return open_dataset(dataset_options(config, reads_text(config) ? config.get(training_sequence) : 1,
                                        static_cast<std::uint64_t>(config.get(training_seed)), tokenizer_json));
}

std::unique_ptr<Dataset> data_of(const Config& config) {
    std::unique_ptr<Dataset> dataset = form_without_data(config, 1) ? nullptr : open_data(config, {});
    if (dataset == nullptr) dataset_options(config, 1, 0, {}); // reads, and so checks, the keys of the data
    return dataset;
}

Checkpoint open_checkpoint(const std::string& path) {
    namespace fs = std::filesystem;
    const fs::path checkpoints = fs::path(path) / "checkpoints";
    if (!fs::is_directory(checkpoints)) return Checkpoint(path);
    std::vector<std::string> skipped;
    const std::string newest = newest_checkpoint(checkpoints.string(), &skipped);
    if (newest.empty())
        throw ConfigError(fmt::format("{} holds no checkpoint{}{}", checkpoints.string(), skipped.empty() ? "" : ": ",
                                      fmt::join(skipped, "; ")));
    return Checkpoint(newest);
}

std::int64_t milliseconds_of(const Arguments& arguments) {
    return arguments.integer("milliseconds", 1, 60'000).value_or(100);
}

std::string metadata_of(const Checkpoint& checkpoint, const std::string& name) {
    const auto found = checkpoint.metadata().find(name);
    return found == checkpoint.metadata().end() ? std::string() : found->second;
}

Config config_of(const Checkpoint& checkpoint, const std::vector<std::string>& overrides) {
    const std::string toml = metadata_of(checkpoint, "config");
    if (toml.empty()) throw ConfigError(fmt::format("checkpoint {} holds no config", checkpoint.folder()));
    return Config::parse(toml, checkpoint.folder() + ":config", overrides, known_keys());
}

} // namespace tessera
