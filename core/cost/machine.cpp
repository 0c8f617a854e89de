// SPDX-License-Identifier: Apache-2.0
// Files of machines: strict keys, as in a config.
#include "core/cost/machine.hpp"

#include "kernels/error.hpp"
#include "kernels/nearest_name.hpp"

#include <algorithm>
#include <array>
#include <fmt/format.h>

namespace tessera {
namespace {

constexpr Key<double> f32_flops{"rank.f32_flops", 0,
                                "operations per second of f32 products, a multiply-add counts two"};
constexpr Key<double> tf32_flops{"rank.tf32_flops", 0, "the same in tf32; 0: as f32"};
constexpr Key<double> bf16_flops{"rank.bf16_flops", 0, "the same in bf16; 0: as f32"};
constexpr Key<double> f16_flops{"rank.f16_flops", 0, "the same in f16; 0: as bf16"};
constexpr Key<double> f8_flops{"rank.f8_flops", 0, "the same with 8-bit factors; 0: as bf16"};
constexpr Key<double> product_efficiency{"rank.product_efficiency", 1, "share of these that large products reach"};
constexpr Key<double> attention_efficiency{"rank.attention_efficiency", 1,
                                           "share of these that attention in 16 bits reaches"};
constexpr Key<double> f32_attention_efficiency{"rank.f32_attention_efficiency", 0,
                                               "and attention in f32; 0: as in 16 bits"};
constexpr Key<double> memory_bandwidth{"rank.memory_bandwidth", 0,
                                       "bytes per second that kernels read and write in memory"};
constexpr Key<double> call_seconds{"rank.call_seconds", 0, "seconds that a kernel takes beyond its work"};
constexpr Key<double> memory_gib{"rank.memory_gib", 0, "GiB of memory"};
constexpr Key<std::string> device{"rank.device", "cpu", "cpu, or cuda: gradients are summed beside the backward pass"};
constexpr Key<std::int64_t> node_ranks{"node.ranks", 1, "ranks of a node"};

// The keys of one section of links; a collective's 0 is what a message has.
struct LinkKeys {
    Key<double> alpha, beta;
};
struct SectionKeys {
    LinkKeys send, all_reduce, all_gather, all_to_all;
    std::array<const LinkKeys*, 4> all() const { return {&send, &all_reduce, &all_gather, &all_to_all}; }
};

constexpr SectionKeys node_keys{
    {{"node.alpha", 0, "seconds of a message between ranks of a node"},
     {"node.beta", 0, "bytes per second that each rank of a node sends to others of it"}},
    {{"node.all_reduce_alpha", 0, "the same in an all-reduce; 0: node.alpha"},
     {"node.all_reduce_beta", 0, "the same in an all-reduce; 0: node.beta"}},
    {{"node.all_gather_alpha", 0, "the same in an all-gather or reduce-scatter; 0: node.alpha"},
     {"node.all_gather_beta", 0, "the same in an all-gather or reduce-scatter; 0: node.beta"}},
    {{"node.all_to_all_alpha", 0, "the same in an all-to-all; 0: node.alpha"},
     {"node.all_to_all_beta", 0, "the same in an all-to-all; 0: node.beta"}}};
constexpr SectionKeys network_keys{
    {{"network.alpha", 0, "seconds of a message between ranks of different nodes"},
     {"network.beta", 0, "bytes per second that each rank of a node sends to other nodes, when all its ranks do"}},
    {{"network.all_reduce_alpha", 0, "the same in an all-reduce; 0: network.alpha"},
     {"network.all_reduce_beta", 0, "the same in an all-reduce; 0: network.beta"}},
    {{"network.all_gather_alpha", 0, "the same in an all-gather or reduce-scatter; 0: network.alpha"},
     {"network.all_gather_beta", 0, "the same in an all-gather or reduce-scatter; 0: network.beta"}},
    {{"network.all_to_all_alpha", 0, "the same in an all-to-all; 0: network.alpha"},
     {"network.all_to_all_beta", 0, "the same in an all-to-all; 0: network.beta"}}};

constexpr double bytes_per_gib = 1 << 30;

double at_least_zero(const Config& config, const Key<double>& key) {
    const double value = config.get(key);
    if (!(value >= 0)) config.refuse(key.name, "must be at least 0");
    return value;
}

double above_zero(const Config& config, const Key<double>& key) {
    if (!config.is_set(key.name))
        throw ConfigError(fmt::format("{}: {} is missing: {}", config.file(), key.name, key.help));
    const double value = config.get(key);
    if (!(value > 0)) config.refuse(key.name, "must be above 0");
    return value;
}

double share(const Config& config, const Key<double>& key) {
    const double value = config.get(key);
    if (!(value > 0 && value <= 1)) config.refuse(key.name, "must be above 0 and at most 1");
    return value;
}

bool is_gpu(const Config& config) {
    const std::string name = config.get(device);
    if (name != "cpu" && name != "cuda") config.refuse(device.name, no_such_name("device", name, {"cpu", "cuda"}));
    return name == "cuda";
}

Links read_links(const Config& config, const SectionKeys& keys) {
    Links links;
    bool said = false;
    for (const LinkKeys* link : keys.all())
        said = said || config.is_set(link->alpha.name) || config.is_set(link->beta.name);
    if (!said) return links;
    const std::array<Link*, 4> targets = {&links.send, &links.all_reduce, &links.all_gather, &links.all_to_all};
    links.send = {above_zero(config, keys.send.alpha), above_zero(config, keys.send.beta)};
    for (std::size_t i = 1; i < targets.size(); ++i) {
        const double alpha = at_least_zero(config, keys.all()[i]->alpha);
        const double beta = at_least_zero(config, keys.all()[i]->beta);
        *targets[i] = {alpha == 0 ? links.send.alpha : alpha, beta == 0 ? links.send.beta : beta};
    }
    return links;
}

Machine machine_of(const Config& config) {
    Machine machine;
    machine.file = config.file();
    const auto or_else = [&](const Key<double>& key, double other) {
        const double value = at_least_zero(config, key);
        return value == 0 ? other : value;
    };
    machine.f32_flops = above_zero(config, f32_flops);
    machine.tf32_flops = or_else(tf32_flops, machine.f32_flops);
    machine.bf16_flops = or_else(bf16_flops, machine.f32_flops);
    machine.f16_flops = or_else(f16_flops, machine.bf16_flops);
    machine.f8_flops = or_else(f8_flops, machine.bf16_flops);
    machine.product_efficiency = share(config, product_efficiency);
    machine.attention_efficiency = share(config, attention_efficiency);
    machine.f32_attention_efficiency = config.get(f32_attention_efficiency) == 0
                                           ? machine.attention_efficiency
                                           : share(config, f32_attention_efficiency);
    machine.memory_bandwidth = above_zero(config, memory_bandwidth);
    machine.call_seconds = at_least_zero(config, call_seconds);
    machine.gpu = is_gpu(config);
    if (config.get(memory_gib) > 1 << 20) config.refuse(memory_gib.name, "must be at most 1048576");
    machine.memory_bytes = static_cast<std::int64_t>(above_zero(config, memory_gib) * bytes_per_gib);
    const std::int64_t ranks = config.get(node_ranks);
    if (ranks < 1 || ranks > 1 << 20) config.refuse(node_ranks.name, "must be from 1 to 1048576");
    machine.ranks_per_node = static_cast<int>(ranks);
    machine.within_node = read_links(config, node_keys);
    machine.between_nodes = read_links(config, network_keys);
    return machine;
}

std::string line(const Key<double>& key, double value) {
    return fmt::format("{} = {:.4g} # {}\n", key.name.substr(key.name.find('.') + 1), value, key.help);
}

std::string text_of(const Links& links, const SectionKeys& keys) {
    const std::array<const Link*, 4> all = {&links.send, &links.all_reduce, &links.all_gather, &links.all_to_all};
    std::string text;
    for (std::size_t i = 0; i < all.size(); ++i)
        text += line(keys.all()[i]->alpha, all[i]->alpha) + line(keys.all()[i]->beta, all[i]->beta);
    return text;
}

} // namespace

const Link& Links::of(Collective collective) const {
    if (collective == Collective::all_reduce) return all_reduce;
    return collective == Collective::all_to_all ? all_to_all : all_gather;
}

double Machine::peak_flops(DType dtype) const {
    switch (dtype) {
    case DType::bf16:
        return bf16_flops;
    case DType::f16:
        return f16_flops;
    case DType::f8e4m3:
    case DType::f8e5m2:
        return f8_flops;
    default:
        return f32_flops;
    }
}

std::vector<KeyInfo> machine_keys() {
    std::vector<KeyInfo> keys;
    for (const Key<double>* key :
         {&f32_flops, &tf32_flops, &bf16_flops, &f16_flops, &f8_flops, &product_efficiency, &attention_efficiency,
          &f32_attention_efficiency, &memory_bandwidth, &call_seconds, &memory_gib})
        keys.push_back(key_info(*key));
    keys.push_back(key_info(device));
    keys.push_back(key_info(node_ranks));
    for (const SectionKeys* section : {&node_keys, &network_keys})
        for (const LinkKeys* link : section->all()) {
            keys.push_back(key_info(link->alpha));
            keys.push_back(key_info(link->beta));
        }
    return keys;
}

Machine read_machine(const std::string& file) { return machine_of(Config::load(file, {}, machine_keys())); }

Machine parse_machine(std::string_view toml, const std::string& name) {
    return machine_of(Config::parse(toml, name, {}, machine_keys()));
}

std::string machine_toml(const Machine& machine, std::string_view comment) {
    std::string text;
    for (std::size_t at = 0; at < comment.size();) {
        const std::size_t end = std::min(comment.find('\n', at), comment.size());
        text += fmt::format("# {}\n", comment.substr(at, end - at));
        at = end + 1;
    }
    text += "\n[rank]\n";
    text += line(f32_flops, machine.f32_flops) + line(tf32_flops, machine.tf32_flops) +
            line(bf16_flops, machine.bf16_flops) + line(f16_flops, machine.f16_flops) +
            line(f8_flops, machine.f8_flops) + line(product_efficiency, machine.product_efficiency) +
            line(attention_efficiency, machine.attention_efficiency) +
            line(f32_attention_efficiency, machine.f32_attention_efficiency) +
            line(memory_bandwidth, machine.memory_bandwidth) + line(call_seconds, machine.call_seconds) +
            line(memory_gib, static_cast<double>(machine.memory_bytes) / bytes_per_gib);
    text += fmt::format("device = \"{}\" # {}\n", machine.gpu ? "cuda" : "cpu", device.help);
    text += fmt::format("\n[node]\nranks = {} # {}\n", machine.ranks_per_node, node_ranks.help);
    if (machine.within_node.known()) text += text_of(machine.within_node, node_keys);
    if (machine.between_nodes.known()) text += "\n[network]\n" + text_of(machine.between_nodes, network_keys);
    return text;
}

} // namespace tessera
