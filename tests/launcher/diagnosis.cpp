// SPDX-License-Identifier: Apache-2.0
// What `tessera doctor` says of made-up machines: nothing of a healthy one, and each fault by its host.
#include "launcher/diagnosis/diagnosis.hpp"

#include <fmt/format.h>
#include <gmock/gmock.h>

namespace tessera {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

// Two ranks on each of `hosts` hosts h0, h1, …, and all their pairs.
Survey healthy(int hosts) {
    Survey survey;
    for (int rank = 0; rank < 2 * hosts; ++rank) {
        RankFacts facts;
        facts.rank = rank;
        facts.host = fmt::format("h{}", rank / 2);
        facts.versions = {{"MPI", "Open MPI v4.1.4"}};
        facts.kernel = "Linux 6.1";
        facts.processor = "one of many";
        facts.cpus = {rank % 2};
        facts.host_cpus = 4;
        facts.flops = 1e10 * (1 + 0.01 * (rank % 3));
        facts.memory_bandwidth = 1e10 * (1 + 0.01 * (rank % 2));
        facts.shared_memory_free = 1 << 30;
        facts.open_files = facts.processes = 65536;
        facts.locked_memory = 8 << 20;
        survey.ranks.push_back(facts);
        for (int other = 0; other < rank; ++other)
            survey.pairs.push_back({other, rank, other / 2 == rank / 2 ? 1e10 : 1e9, 1e-6});
    }
    survey.device_memory = "not tried: the ranks compute on CPUs";
    return survey;
}

// The one thing that is wrong with it.
Finding wrong_with(const Survey& survey) {
    const std::vector<Finding> findings = judge(survey);
    const auto wrong = std::ranges::count(findings, true, &Finding::wrong);
    EXPECT_EQ(wrong, 1) << report(survey, findings);
    return wrong == 0 ? Finding{} : findings.front();
}

TEST(Diagnosis, OfAHealthyMachineNothing) {
    for (const int hosts : {1, 2, 4}) {
        const Survey survey = healthy(hosts);
        EXPECT_THAT(judge(survey), IsEmpty()) << report(survey, judge(survey));
        EXPECT_THAT(report(survey, {}), HasSubstr("nothing is wrong\n"));
        EXPECT_EQ(exclude_line({}, survey), "");
    }
}

TEST(Diagnosis, ASlowRankIsNamedAndItsHostLeftOut) {
    Survey survey = healthy(4);
    survey.ranks[5].flops /= 2;
    const Finding found = wrong_with(survey);
    EXPECT_THAT(found.what, HasSubstr("rank 5 on h2: products 5.1 GFLOP/s, the median of 8 ranks is 10.1"));
    EXPECT_EQ(exclude_line({found}, survey), "--exclude=h2");
    survey = healthy(4);
    survey.ranks[1].memory_bandwidth /= 3;
    EXPECT_THAT(wrong_with(survey).what, HasSubstr("rank 1 on h0: memory"));
}

TEST(Diagnosis, ASlowHostIsToldFromASlowLink) {
    Survey survey = healthy(4);
    for (PairRate& pair : survey.pairs)
        if (pair.one / 2 != pair.other / 2 && (pair.one / 2 == 3 || pair.other / 2 == 3)) pair.bytes_per_second /= 4;
    const Finding found = wrong_with(survey);
    EXPECT_THAT(found.what, HasSubstr("h3: all-reduces with other hosts at 0.25 GB/s at best"));
    EXPECT_THAT(found.of, ElementsAre("h3"));
    survey = healthy(4);
    for (PairRate& pair : survey.pairs)
        if (pair.one == 2 && pair.other == 6) pair.bytes_per_second /= 4;
    const std::vector<Finding> findings = judge(survey);
    ASSERT_EQ(findings.size(), 1u) << report(survey, findings);
    EXPECT_FALSE(findings[0].wrong);
    EXPECT_THAT(findings[0].what, HasSubstr("ranks 2 on h1 and 6 on h3"));
}

TEST(Diagnosis, RanksOnOneCore) {
    Survey survey = healthy(2);
    survey.ranks[3].cpus = survey.ranks[2].cpus;
    EXPECT_THAT(wrong_with(survey).what, HasSubstr("ranks 2, 3 on h1 with 2 threads together are bound to 1 core (0)"));
    survey = healthy(1);
    for (RankFacts& rank : survey.ranks) {
        rank.cpus = {0};
        rank.host_cpus = 1;
    }
    const std::vector<Finding> shared = judge(survey); // there is no other core
    ASSERT_EQ(shared.size(), 1u);
    EXPECT_FALSE(shared[0].wrong);
}

TEST(Diagnosis, WhatAHostLacks) {
    const auto of_h1 = [](auto change) {
        Survey survey = healthy(2);
        for (RankFacts& rank : survey.ranks)
            if (rank.host == "h1") change(rank);
        const Finding found = wrong_with(survey);
        EXPECT_THAT(found.of, ElementsAre("h1")) << found.what;
        EXPECT_FALSE(found.remedy.empty());
        EXPECT_EQ(exclude_line({found}, survey), "--exclude=h1");
        return found.what;
    };
    EXPECT_THAT(of_h1([](RankFacts& r) { r.shared_memory_free = 1 << 20; }), HasSubstr("h1: /dev/shm has 1,048,576"));
    EXPECT_THAT(of_h1([](RankFacts& r) { r.open_files = 256; }), HasSubstr("may open 256 files"));
    EXPECT_THAT(of_h1([](RankFacts& r) { r.processes = 100; }), HasSubstr("may have 100 processes"));
    EXPECT_THAT(of_h1([](RankFacts& r) { r.infiniband = true; }), HasSubstr("only 8,388,608 bytes may be locked"));
    EXPECT_THAT(of_h1([](RankFacts& r) { r.versions["MPI"] = "Open MPI v5.0.0"; }),
                HasSubstr("h1: MPI Open MPI v5.0.0, but h0 has Open MPI v4.1.4"));
    EXPECT_THAT(of_h1([](RankFacts& r) { r.clock_ahead = -7; }), HasSubstr("h1: its clock is 7.0 s behind of h0's"));
    EXPECT_THAT(of_h1([](RankFacts& r) { r.folder_problem = "does not see it"; }), HasSubstr("ranks 2, 3 on h1: does"));
}

TEST(Diagnosis, RoomForCheckpoints) {
    Survey survey = healthy(1);
    survey.room = Room{"/runs", 3, 1000, 2999};
    EXPECT_THAT(wrong_with(survey).what,
                HasSubstr("/runs: 2,999 bytes free, 3 checkpoints of 1,000 bytes each want 3,000"));
    survey.room->free = 3000;
    EXPECT_THAT(judge(survey), IsEmpty());
}

TEST(Diagnosis, InterfacesThatNotAllReach) {
    Survey survey = healthy(3);
    survey.routes = {{"eth0", "10.0.0.1", {"h1", "h2"}, {}}, {"docker0", "172.17.0.1", {}, {"h1", "h2"}}};
    const std::vector<Finding> findings = judge(survey);
    ASSERT_EQ(findings.size(), 1u);
    EXPECT_FALSE(findings[0].wrong);
    EXPECT_THAT(findings[0].remedy, HasSubstr("OMPI_MCA_btl_tcp_if_include=eth0"));
    survey.routes = {{"eth0", "10.0.0.1", {"h1"}, {"h2"}}};
    EXPECT_THAT(wrong_with(survey).what, HasSubstr("h2 reaches h0 on none of its interfaces"));
}

TEST(Diagnosis, NoHostIsLeftOutWhenNoneWouldBeLeft) {
    Survey survey = healthy(1);
    survey.ranks[1].flops /= 9;
    EXPECT_EQ(exclude_line({wrong_with(survey)}, survey), "");
}

TEST(RankFactsText, ReadsBackTheSame) {
    RankFacts facts = healthy(1).ranks[1];
    facts.folder_problem = "\"quoted\"\n";
    EXPECT_EQ(text_of(facts_from(text_of(facts))), text_of(facts));
    EXPECT_EQ(facts_from(text_of(facts)).folder_problem, facts.folder_problem);
}

} // namespace
} // namespace tessera
