// SPDX-License-Identifier: Apache-2.0
// Which cores ranks get, on this host and on hosts that are only described.
#include "launcher/job/binding.hpp"

#include "kernels/error.hpp"

#include <algorithm>
#include <gtest/gtest.h>
#include <rapidcheck.h>
#include <sched.h>
#include <set>

namespace tessera {
namespace {

using Cores = std::vector<int>;

// Two NUMA nodes of four cores, each with two hardware threads, and two GPUs, the first of which is near the second
// node.
const char* const two_sockets = R"(<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE topology SYSTEM "hwloc2.dtd">
<topology version="2.0"><object type="Machine" os_index="0" cpuset="0x000000ff" complete_cpuset="0x000000ff"
 allowed_cpuset="0x000000ff" nodeset="0x00000003" complete_nodeset="0x00000003" allowed_nodeset="0x00000003" gp_index="1">
<object type="Package" os_index="0" cpuset="0x0000000f" complete_cpuset="0x0000000f" nodeset="0x00000001" complete_nodeset="0x00000001" gp_index="2">
<object type="NUMANode" os_index="0" cpuset="0x0000000f" complete_cpuset="0x0000000f" nodeset="0x00000001" complete_nodeset="0x00000001" gp_index="3" local_memory="1024"/>
<object type="Core" os_index="0" cpuset="0x00000003" complete_cpuset="0x00000003" nodeset="0x00000001" complete_nodeset="0x00000001" gp_index="4">
<object type="PU" os_index="0" cpuset="0x00000001" complete_cpuset="0x00000001" nodeset="0x00000001" complete_nodeset="0x00000001" gp_index="5"/>
<object type="PU" os_index="1" cpuset="0x00000002" complete_cpuset="0x00000002" nodeset="0x00000001" complete_nodeset="0x00000001" gp_index="6"/></object>
<object type="Core" os_index="1" cpuset="0x0000000c" complete_cpuset="0x0000000c" nodeset="0x00000001" complete_nodeset="0x00000001" gp_index="7">
<object type="PU" os_index="2" cpuset="0x00000004" complete_cpuset="0x00000004" nodeset="0x00000001" complete_nodeset="0x00000001" gp_index="8"/>
<object type="PU" os_index="3" cpuset="0x00000008" complete_cpuset="0x00000008" nodeset="0x00000001" complete_nodeset="0x00000001" gp_index="9"/></object>
<object type="Bridge" gp_index="20" bridge_type="0-1" depth="0" bridge_pci="0000:[80-81]">
<object type="PCIDev" gp_index="21" pci_busid="0000:81:00.0" pci_type="0302 [10de:2330] [10de:16c1] a1" pci_link_speed="1.0"/></object></object>
<object type="Package" os_index="1" cpuset="0x000000f0" complete_cpuset="0x000000f0" nodeset="0x00000002" complete_nodeset="0x00000002" gp_index="10">
<object type="NUMANode" os_index="1" cpuset="0x000000f0" complete_cpuset="0x000000f0" nodeset="0x00000002" complete_nodeset="0x00000002" gp_index="11" local_memory="1024"/>
<object type="Core" os_index="0" cpuset="0x00000030" complete_cpuset="0x00000030" nodeset="0x00000002" complete_nodeset="0x00000002" gp_index="12">
<object type="PU" os_index="4" cpuset="0x00000010" complete_cpuset="0x00000010" nodeset="0x00000002" complete_nodeset="0x00000002" gp_index="13"/>
<object type="PU" os_index="5" cpuset="0x00000020" complete_cpuset="0x00000020" nodeset="0x00000002" complete_nodeset="0x00000002" gp_index="14"/></object>
<object type="Core" os_index="1" cpuset="0x000000c0" complete_cpuset="0x000000c0" nodeset="0x00000002" complete_nodeset="0x00000002" gp_index="15">
<object type="PU" os_index="6" cpuset="0x00000040" complete_cpuset="0x00000040" nodeset="0x00000002" complete_nodeset="0x00000002" gp_index="16"/>
<object type="PU" os_index="7" cpuset="0x00000080" complete_cpuset="0x00000080" nodeset="0x00000002" complete_nodeset="0x00000002" gp_index="17"/></object>
<object type="Bridge" gp_index="22" bridge_type="0-1" depth="0" bridge_pci="0000:[40-41]">
<object type="PCIDev" gp_index="23" pci_busid="0000:41:00.0" pci_type="0302 [10de:2330] [10de:16c1] a1" pci_link_speed="1.0"/>
<object type="PCIDev" gp_index="24" pci_busid="0000:41:01.0" pci_type="0300 [1a03:2000] [1a03:2000] 52" pci_link_speed="0.0"/></object></object>
</object></topology>)";

TEST(HostShape, FindsCoresThatThisProcessMayRunOn) {
    const HostShape shape = shape_of_this_host("");
    ASSERT_FALSE(shape.cores.empty());
    for (std::size_t i = 1; i < shape.cores.size(); ++i)
        EXPECT_NE(shape.cores[i], shape.cores[i - 1]);
    cpu_set_t before, now;
    ASSERT_EQ(sched_getaffinity(0, sizeof before, &before), 0);
    for (const HostShape::Core& core : shape.cores) { // the kernel agrees
        bind_to({core.number});
        ASSERT_EQ(sched_getaffinity(0, sizeof now, &now), 0);
        EXPECT_TRUE(CPU_ISSET(core.number, &now));
        EXPECT_EQ(shape_of_this_host("").cores,
                  std::vector<HostShape::Core>{core}); // a part of the host is all there is
        ASSERT_EQ(sched_setaffinity(0, sizeof before, &before), 0);
    }
}

TEST(HostShape, KnowsNodesAndGpus) {
    const HostShape described = shape_of_synthetic("numa:2 core:3 pu:2");
    ASSERT_EQ(described.cores.size(), 6u);
    EXPECT_EQ(described.cores[0], (HostShape::Core{0, 0}));
    EXPECT_EQ(described.cores[5], (HostShape::Core{10, 1}));
    const HostShape shape = shape_of_xml(two_sockets);
    EXPECT_EQ(shape.cores, (std::vector<HostShape::Core>{{0, 0}, {2, 0}, {4, 1}, {6, 1}}));
    // In the order of the bus; a display of another make is none.
    EXPECT_EQ(shape.gpus, (std::vector<HostShape::Gpu>{{"0000:41:00.0", 1}, {"0000:81:00.0", 0}}));
    EXPECT_THROW(shape_of_synthetic("nonsense"), ConfigError);
    EXPECT_THROW(shape_of_xml("<x/>"), std::exception);
}

TEST(HostShape, IsToldToAnotherHost) {
    const HostShape shape = shape_of_xml(two_sockets);
    EXPECT_EQ(text_of(shape), "cores 0@0 2@0 4@1 6@1 gpus 0000:41:00.0@1 0000:81:00.0@0");
    EXPECT_EQ(parse_shape(text_of(shape)).cores, shape.cores);
    EXPECT_EQ(parse_shape(text_of(shape)).gpus, shape.gpus);
    for (const char* text : {"", "cores", "gpus 1@0", "cores 1", "cores x@1", "1@2", "cores 1@-2"})
        EXPECT_THROW(parse_shape(text), ConfigError) << text;
}

std::vector<Cores> cores_of(const std::vector<RankBinding>& ranks) {
    std::vector<Cores> all;
    for (const RankBinding& rank : ranks)
        all.push_back(rank.cores);
    return all;
}

TEST(Binding, KeepsEachRankInOneNode) {
    const HostShape host = shape_of_synthetic("numa:2 core:3 pu:1");
    EXPECT_EQ(threads_that_fit(4, host), 1); // of 3 cores a rank of 2 threads leaves one, and 4 do not fit
    EXPECT_EQ(threads_that_fit(3, host), 1);
    EXPECT_EQ(threads_that_fit(2, host), 3);
    EXPECT_EQ(threads_that_fit(1, host), 6); // one rank may have them all
    EXPECT_EQ(threads_that_fit(7, host), 1);
    EXPECT_EQ(cores_of(place_ranks(2, 2, host)), (std::vector<Cores>{{0, 1}, {3, 4}}));
    EXPECT_EQ(cores_of(place_ranks(3, 1, host)), (std::vector<Cores>{{0}, {1}, {3}}));
    EXPECT_EQ(cores_of(place_ranks(2, 3, host)), (std::vector<Cores>{{0, 1, 2}, {3, 4, 5}}));
    const std::vector<RankBinding> across = place_ranks(3, 2, host); // asked for: the last has one of each
    EXPECT_EQ(cores_of(across), (std::vector<Cores>{{0, 1}, {3, 4}, {2, 5}}));
    EXPECT_EQ(across[2].nodes, (std::vector<int>{0, 1}));
    EXPECT_EQ(cores_of(place_ranks(7, 1, host)), std::vector<Cores>(7)); // too few: none is bound
}

TEST(Binding, TakesCoresNearTheGpu) {
    const HostShape host = shape_of_xml(two_sockets);
    const std::vector<RankBinding> ranks = place_ranks(2, 2, host);
    EXPECT_EQ(ranks[0].gpu, 0);
    EXPECT_EQ(cores_of(ranks), (std::vector<Cores>{{4, 6}, {0, 2}}));
    EXPECT_EQ(text_of(ranks[0], host), "cores 4,6 of NUMA node 1, GPU 0 (0000:41:00.0 near NUMA node 1)");
    EXPECT_EQ(place_ranks(3, 1, host)[0].gpu, -1); // too few GPUs: ranks are on CPUs
    EXPECT_EQ(text_of(place_ranks(9, 1, host)[0], host), "any core");
}

TEST(Binding, GivesEveryCoreOnce) {
    const bool right = rc::check([] {
        HostShape host;
        const int nodes = *rc::gen::inRange(1, 5);
        for (int node = 0; node < nodes; ++node)
            for (int core = *rc::gen::inRange(1, 9); core > 0; --core)
                host.cores.push_back({static_cast<int>(host.cores.size()), node});
        const auto cores = static_cast<std::int64_t>(host.cores.size());
        const auto ranks = *rc::gen::inRange<std::int64_t>(1, 12);
        const auto wanted = *rc::gen::inRange<std::int64_t>(0, 6);
        const std::int64_t threads = wanted == 0 ? threads_that_fit(ranks, host) : wanted;
        RC_ASSERT(threads >= 1);
        const std::vector<RankBinding> places = place_ranks(ranks, threads, host);
        RC_ASSERT(std::ssize(places) == ranks);
        RC_ASSERT(cores_suffice(ranks, threads, host) == (ranks * threads <= cores));
        std::set<int> taken;
        for (const RankBinding& place : places) {
            RC_ASSERT(std::ssize(place.cores) == (ranks * threads <= cores ? threads : 0));
            taken.insert(place.cores.begin(), place.cores.end());
            if (wanted == 0 && ranks >= nodes) RC_ASSERT(place.nodes.size() <= 1u);
        }
        if (ranks * threads <= cores) RC_ASSERT(std::ssize(taken) == ranks * threads);
        if (wanted == 0 && nodes == 1 && ranks <= cores) // one thread more would not fit
            RC_ASSERT(ranks * threads <= cores && ranks * (threads + 1) > cores);
    });
    EXPECT_TRUE(right);
}

} // namespace
} // namespace tessera
