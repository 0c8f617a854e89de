// SPDX-License-Identifier: Apache-2.0
// `tessera doctor`: tries out the hosts, ranks, links and folders that a run would use, and says what is wrong.
#include "core/config_catalog.hpp"
#include "core/run/clock_offset.hpp"
#include "core/run/folder.hpp"
#include "core/run/host_copy.hpp"
#include "core/run/measure_machine.hpp"
#include "core/run/trainer.hpp"
#include "core/run/weights.hpp"
#include "kernels/copy.hpp"
#include "kernels/error.hpp"
#include "launcher/diagnosis/diagnosis.hpp"
#include "launcher/diagnosis/folder_trial.hpp"
#include "launcher/diagnosis/routes.hpp"
#include "launcher/job/child.hpp"
#include "launcher/job/start_ranks.hpp"
#include "launcher/setup.hpp"

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <fmt/format.h>
#include <sstream>
#include <unistd.h>

namespace tessera {
namespace {

constexpr int something_is_wrong = 1; // exit code
constexpr int planted_slowness = 8;

bool has_config(const std::vector<std::string>& words) {
    return !words.empty() && words[0].find('=') == std::string::npos;
}

Config config_of(const std::vector<std::string>& words) {
    if (has_config(words)) return Config::load(words[0], {words.begin() + 1, words.end()}, known_keys());
    return Config::parse("", "doctor", words, known_keys());
}

// "slow:2" -> 2; -1 when nothing is planted.
int planted_rank(const Arguments& arguments) {
    const std::optional<std::string> fault = arguments.text("plant");
    if (!fault) return -1;
    if (!fault->starts_with("slow:")) throw ConfigError(fmt::format("--plant {}: expected slow:RANK", *fault));
    return static_cast<int>(parse_integer("--plant slow:", fault->substr(5), 0, 1'000'000));
}

int start_doctor(const Arguments& arguments) {
    config_of(arguments.words()); // refuses before anything is started, as these do
    milliseconds_of(arguments);
    planted_rank(arguments);
    return start_ranks("doctor", {"milliseconds", "plant", "folder", "json"}, arguments);
}

// A message of MPI to itself, from a GPU's memory to a GPU's memory: what it arrives as, or the process dies of it.
int try_device_memory(const Config& config, Process& process) {
    const World& world = start_world(process);
    Stream stream = make_stream(config, &world);
    constexpr std::int64_t count = 1 << 18;
    Buffer from = std::visit([](const auto& s) { return allocate(s, count * 4); }, stream);
    Buffer to = std::visit([](const auto& s) { return allocate(s, count * 4); }, stream);
    std::visit([&](auto& s) { kernels::fill(s, View(from.data(), {count}, DType::f32), 1); }, stream);
    std::visit([&](auto& s) { kernels::fill(s, View(to.data(), {count}, DType::f32), 0); }, stream);
    std::visit([](const auto& s) { s.wait(); }, stream);
    const Message sent{from.data(), count * 4, 0}, received{to.data(), count * 4, 0};
    world.group().exchange(std::span(&sent, 1), std::span(&received, 1));
    const float last = number(stream, View(to.data() + (count - 1) * 4, {}, DType::f32));
    fmt::print("{}\n", last == 1 ? "works" : "arrives as something else");
    return last == 1 ? 0 : something_is_wrong;
}

// In a process of its own, which knows nothing of the ranks that are running.
std::string device_memory_text(const Stream& stream, bool& fails) {
    if (std::holds_alternative<CpuStream>(stream)) return "not tried: the ranks compute on CPUs";
    std::vector<std::string> command{"env"};
    for (char** one = environ; *one != nullptr; ++one) {
        const std::string name = std::string(*one).substr(0, std::string_view(*one).find('='));
        for (const char* opening : {"OMPI_", "PMIX_", "PMI_", "PRTE_", "SLURM_"})
            if (name.starts_with(opening)) command.insert(command.end(), {"-u", name});
    }
    command.push_back(std::filesystem::read_symlink("/proc/self/exe").string());
    command.insert(command.end(), {"doctor", "--try-device-memory", "run.device=cuda"});
    const std::string text = output_of(command, std::chrono::seconds(60)); // MPI starts in it, and may hang
    fails = text.find("works\n") == std::string::npos;
    return fails ? "fails: this MPI is not CUDA-aware" : "works: this MPI is CUDA-aware";
}

double wall_clock() {
    return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

// Ranks on other hosts than rank 0's connect to each of its interfaces, one rank of each host.
std::vector<Interface> try_routes(const Team& team, const std::string& host, const std::vector<std::string>& hosts) {
    std::optional<Listener> listener;
    std::string places; // "PORT WORD", then a line for each interface
    std::vector<Interface> routes;
    if (team.rank == 0) {
        routes = interfaces_here();
        listener.emplace();
        places = fmt::format("{} {}\n", listener->port(), listener->word());
        for (const Interface& route : routes)
            places += route.address + '\n';
    }
    std::istringstream lines(team.broadcast(places));
    const std::string first = team.broadcast(host), speaks = team.broadcast(fmt::format("{}", fmt::join(hosts, "\n")));
    int port = 0;
    std::string word, address, answers;
    lines >> port >> word;
    // `speaks` has a line for each rank: its host where it is the first there, else nothing
    std::istringstream speakers(speaks);
    std::string mine;
    for (int rank = 0; rank <= team.rank; ++rank)
        std::getline(speakers, mine);
    if (!mine.empty() && mine != first)
        while (lines >> address)
            answers += reaches(address, port, word) ? '1' : '0';
    const std::vector<std::string> all = team.gather(answers);
    for (std::size_t rank = 0; rank < all.size(); ++rank)
        for (std::size_t i = 0; i < all[rank].size(); ++i)
            (all[rank][i] == '1' ? routes[i].reached : routes[i].missed).push_back(hosts[rank]);
    return routes;
}

Room room_for(const Config& config, const World& world, Stream& stream, const std::string& folder) {
    const std::unique_ptr<Dataset> dataset = open_data(config, {});
    const Experiment experiment = plan_training(config, view_of(world), dataset.get(), stream);
    Trainer::check_keys(config, experiment);
    config.refuse_unread();
    const Graph& graph = experiment.train.plan.graph;
    Room room{folder, 0, 0, -1};
    for (const ValueId id : persistent_values(graph)) {
        const Value& value = graph.value(id);
        room.bytes += value.shape_outside().count() * bytes_of(value.type.dtype);
    }
    const std::int64_t kept = config.get(checkpoint_keep);
    room.checkpoints = kept == 0 ? 0 : kept + 1; // the oldest goes when the newest is there
    std::error_code error;
    if (const auto space = std::filesystem::space(folder, error); !error)
        room.free = static_cast<std::int64_t>(space.available);
    return room;
}

// What this rank finds out, alone and together with the others.
RankFacts examine(const Arguments& arguments, const World& world, Groups& groups, Stream& stream, Stream& host,
                  const std::string& folder) {
    RankFacts facts = facts_of_this_process();
    facts.rank = world.rank();
    facts.device = std::visit([](const auto& s) { return s.text(); }, stream);
    if (const auto* cpu = std::get_if<CpuStream>(&stream)) facts.threads = cpu->threads();
    const ClockOffset offset = clock_offset(groups.all(), host, wall_clock);
    facts.clock_ahead = offset.seconds;
    facts.clock_error = offset.error;
    const double seconds = static_cast<double>(milliseconds_of(arguments)) / 1000;
    const OwnRates rates =
        measure_own({groups, stream, host, seconds}, planted_rank(arguments) == world.rank() ? planted_slowness : 1);
    facts.flops = rates.flops;
    facts.memory_bandwidth = rates.memory_bandwidth;
    facts.folder_problem = try_folder(team_of(groups.all(), host), folder);
    return facts;
}

// By rank: its host where it is the first rank there, else "". On rank 0.
std::vector<std::string> speakers_of(const std::vector<RankFacts>& ranks) {
    std::vector<std::string> speakers, seen;
    for (const RankFacts& rank : ranks) {
        const bool first = std::find(seen.begin(), seen.end(), rank.host) == seen.end();
        if (first) seen.push_back(rank.host);
        speakers.push_back(first ? rank.host : "");
    }
    return speakers;
}

int run_doctor(const Arguments& arguments, Process& process) {
    if (starts_ranks(arguments)) return start_doctor(arguments);
    Config config = config_of(arguments.words());
    if (arguments.has("try-device-memory")) return try_device_memory(config, process);
    World& world = start_world(process);
    Stream stream = make_stream(config, &world);
    Stream host = make_host_stream(stream);
    const std::string wanted =
        arguments.text("folder").value_or(has_config(arguments.words()) ? settle_run_folder(config).string() : ".");
    std::optional<Room> room;
    const std::string folder = existing_folder(wanted);
    if (!has_config(arguments.words()))
        config.refuse_unread();
    else if (world.rank() == 0)
        room = room_for(config, world, stream, folder);
    Groups groups(world, Mesh({{"ranks", world.size()}}), stream, true);
    const Team team = team_of(groups.all(), host);
    const RankFacts mine = examine(arguments, world, groups, stream, host, folder);
    std::vector<PairRate> pairs = measure_pairs(world, stream);
    std::string pairs_text;
    for (const PairRate& pair : pairs)
        pairs_text += fmt::format("{} {} {} {}\n", pair.one, pair.other, pair.bytes_per_second, pair.seconds);

    Survey survey;
    for (const std::string& text : team.gather(text_of(mine)))
        survey.ranks.push_back(facts_from(text));
    PairRate pair;
    for (const std::string& text : team.gather(pairs_text))
        for (std::istringstream words(text); words >> pair.one >> pair.other >> pair.bytes_per_second >> pair.seconds;)
            survey.pairs.push_back(pair);
    const bool many = team.broadcast(survey.hosts().size() > 1 ? "many" : "") == "many";
    if (many) survey.routes = try_routes(team, mine.host, speakers_of(survey.ranks));
    std::string verdict;
    if (world.rank() == 0) {
        survey.folder = folder;
        survey.room = room;
        survey.device_memory = device_memory_text(stream, survey.device_memory_fails);
        const std::vector<Finding> findings = judge(survey);
        fmt::print("{}", arguments.has("json") ? report_json(survey, findings) : report(survey, findings));
        verdict = std::ranges::any_of(findings, &Finding::wrong) ? "wrong" : "";
    }
    return team.broadcast(verdict).empty() ? 0 : something_is_wrong;
}

} // namespace

Command doctor_command() {
    std::vector<Option> options = options_of_ranks();
    options[0].help = "start so many ranks (without any of these: be one of those started)";
    options.insert(options.end(),
                   {{"folder", "DIR", "that all ranks should see (default: the config's run.folder, or this one)"},
                    {"json", "", "print one JSON object"},
                    {"milliseconds", "N", "that each measurement repeats its work (default 100)"},
                    {"plant", "FAULT", "to see it found: slow:RANK"},
                    {"try-device-memory", "", "only send a GPU's memory through MPI (what doctor starts itself)"}});
    return {"doctor",
            "find out what is wrong with the hosts, ranks and links of a run",
            {"doctor [OPTION…] [CONFIG] [section.key=value …]",
             R"(Prints versions, hosts and limits; measures each rank's products and memory, and
all-reduces in pairs; tries the folder, the clocks, the interfaces between hosts
and, on GPUs, MPI with their memory. With CONFIG, whether its checkpoints fit on
the disk. Says in a line each what is wrong and what to do, and which hosts to
leave out. Exit code 0: nothing is wrong; 1: something is.

Example
  tessera doctor -n 4 configs/quickstart.toml
)",
             options, 0, 100'000},
            run_doctor};
}

} // namespace tessera
