// SPDX-License-Identifier: Apache-2.0
// Whom a verdict blames, by what the ranks report; and when a deadline is over.
#include "core/watch/stall_verdict.hpp"

#include "core/watch/deadlines.hpp"

#include <algorithm>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace tessera {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

const Mesh flat({{"data", 4}});
const Mesh square({{"data", 2}, {"tensor", 2}}); // data groups: 0 2, 1 3; tensor groups: 0 1, 2 3

CallRecord call(std::int64_t number, int axis, CallState state = CallState::begun, CallKind kind = CallKind::all_reduce,
                std::string name = "w", int peer = -1) {
    return {number, axis, kind, state, DType::f32, peer, 4096, 0, 0, std::move(name)};
}

RankReport rank(int number, Doing doing = Doing::computing) {
    RankReport report;
    report.place = {number, number < 2 ? "a" : "b", 100 + number};
    report.overdue = true;
    report.deadline = 30;
    report.state.activity = Activity::training;
    report.state.doing = doing;
    report.state.step = 11;
    report.state.in_step = true;
    report.state.work = "layers.3.fc1";
    report.doing_age = report.step_age = 31;
    return report;
}

RankReport waiting(int number, const CallRecord& in, double age = 30) {
    RankReport report = rank(number);
    report.calls = {{in, age}, {call(in.number - 1, in.axis, CallState::ended), age + 1}};
    return report;
}

std::vector<RankReport> all_waiting(int but = -1) {
    std::vector<RankReport> reports;
    for (int number = 0; number < 4; ++number)
        if (number != but) reports.push_back(waiting(number, call(41, 1)));
    return reports;
}

TEST(Verdict, NamesWhoReadsDataWhileOthersWait) {
    std::vector<RankReport> reports = all_waiting(2);
    reports.push_back(rank(2, Doing::reading_data));
    reports.back().calls = {{call(40, 1, CallState::ended), 32}};
    const Verdict verdict = compose_verdict(reports, flat);
    EXPECT_EQ(verdict.kind, "stalled");
    EXPECT_EQ(verdict.place, (RankPlace{2, "b", 102}));
    EXPECT_EQ(verdict.step, 12);
    EXPECT_THAT(verdict.sentence, AllOf(HasSubstr("rank 2 on b (pid 102) is reading data, step 12, since 31.0 s"),
                                        HasSubstr("ranks 0, 1, 3 have waited for 30.0 s in all_reduce of 'w' (4,096 "
                                                  "bytes of f32, call 41 of the axis 'data')")));
    EXPECT_THAT(verdict.page, AllOf(HasSubstr("Step 12 has been under way for 31.0 s"), HasSubstr("deadline is 30.0 s"),
                                    HasSubstr("The last calls of rank 2")));
}

TEST(Verdict, NamesTheNodeThatIsComputed) {
    std::vector<RankReport> reports = all_waiting(0);
    reports.push_back(rank(0));
    EXPECT_THAT(compose_verdict(reports, flat).sentence,
                HasSubstr("rank 0 on a (pid 100) is computing 'layers.3.fc1'"));
}

TEST(Verdict, OfTwoThatAreBusyTheOneThatIsBehind) {
    std::vector<RankReport> reports{waiting(0, call(41, 1)), waiting(3, call(41, 1)), rank(1), rank(2)};
    reports[2].calls = {{call(40, 1, CallState::ended), 32}};
    reports[3].calls = {{call(39, 1, CallState::ended), 32}};
    EXPECT_EQ(compose_verdict(reports, flat).place.rank, 2);
    std::swap(reports[2].calls, reports[3].calls);
    EXPECT_EQ(compose_verdict(reports, flat).place.rank, 1);
}

TEST(Verdict, WhoIsSavingIsSaidToBe) {
    std::vector<RankReport> reports = all_waiting(1);
    reports.push_back(rank(1, Doing::nothing_told));
    reports.back().state.activity = Activity::saving;
    EXPECT_THAT(compose_verdict(reports, flat).sentence, HasSubstr("rank 1 on a (pid 101) is saving"));
}

TEST(Verdict, AProcessThatIsGoneComesBeforeAll) {
    std::vector<RankReport> reports = all_waiting(1);
    reports.push_back(rank(1));
    reports.back().contact = Contact::gone;
    reports[0].process = 'T';
    const Verdict verdict = compose_verdict(reports, flat);
    EXPECT_EQ(verdict.kind, "lost");
    EXPECT_EQ(verdict.place.rank, 1);
    EXPECT_THAT(verdict.sentence, AllOf(HasSubstr("its process is gone"), HasSubstr("computing 'layers.3.fc1'")));
    EXPECT_THAT(verdict.page, HasSubstr("A rank is lost"));
}

TEST(Verdict, ADeadHostIsNamedWithItsRanks) {
    std::vector<RankReport> reports = all_waiting();
    for (const int gone : {2, 3}) {
        reports[static_cast<std::size_t>(gone)].contact = Contact::unreachable;
        reports[static_cast<std::size_t>(gone)].silence = 40;
    }
    const Verdict verdict = compose_verdict(reports, flat);
    EXPECT_EQ(verdict.kind, "lost");
    EXPECT_THAT(verdict.sentence, AllOf(HasSubstr("host b with ranks 2, 3 does not answer"), HasSubstr("40.0 s")));
}

TEST(Verdict, AStoppedProcessIsNamedThoughItSeemsToWait) {
    std::vector<RankReport> reports = all_waiting();
    reports[3].contact = Contact::silent;
    reports[3].process = 'T';
    const Verdict verdict = compose_verdict(reports, flat);
    EXPECT_EQ(verdict.kind, "stalled");
    EXPECT_EQ(verdict.place.rank, 3);
    EXPECT_THAT(verdict.sentence, HasSubstr("its process is stopped"));
}

TEST(Verdict, ADiskWaitAndSilenceAreSaid) {
    std::vector<RankReport> reports = all_waiting();
    reports[1].contact = Contact::silent;
    reports[1].process = 'D';
    EXPECT_THAT(compose_verdict(reports, flat).sentence, HasSubstr("uninterruptible disk wait"));
    reports[1].process = 0;
    EXPECT_THAT(compose_verdict(reports, flat).sentence, HasSubstr("rank 1 on a (pid 101): does not answer"));
}

TEST(Verdict, WhoHasLeftIsNamed) {
    std::vector<RankReport> reports = all_waiting();
    reports[2].contact = Contact::left;
    const Verdict verdict = compose_verdict(reports, flat);
    EXPECT_EQ(verdict.place.rank, 2);
    EXPECT_THAT(verdict.sentence, HasSubstr("has left the run"));
}

TEST(Verdict, OneCallTooFew) {
    std::vector<RankReport> reports = all_waiting(1);
    reports.push_back(waiting(1, call(40, 1, CallState::begun, CallKind::all_gather, "x")));
    const Verdict verdict = compose_verdict(reports, flat);
    EXPECT_EQ(verdict.place.rank, 1);
    EXPECT_THAT(verdict.sentence,
                AllOf(HasSubstr("different collectives"), HasSubstr("all_gather of 'x' (4,096 bytes of f32, call 40"),
                      HasSubstr("ranks 0, 2, 3 are in all_reduce of 'w'")));
}

TEST(Verdict, OfTwoTheOneThatHasEnteredFewer) {
    for (const int behind : {0, 1}) {
        const std::vector<RankReport> reports{waiting(behind, call(40, 1)), waiting(1 - behind, call(41, 1))};
        EXPECT_EQ(compose_verdict(reports, Mesh({{"data", 2}})).place.rank, behind);
    }
}

TEST(Verdict, AnotherAxisIsAnotherCall) {
    // In a circle: 0 waits for 1 on the tensor axis, 1 for 3 on the data axis, 3 for 2, 2 for 0.
    const std::vector<RankReport> reports{waiting(0, call(7, 2)), waiting(1, call(41, 1)), waiting(2, call(41, 1)),
                                          waiting(3, call(7, 2))};
    EXPECT_THAT(compose_verdict(reports, square).sentence,
                AllOf(HasSubstr("different collectives"), HasSubstr("call 7 of the axis 'tensor'"),
                      HasSubstr("call 41 of the axis 'data'")));
}

TEST(Verdict, GroupsOfAnAxisAreNotMistakenForEachOther) {
    // Two groups of the data axis, at different calls of their own: 3 computes, its group 1 3 waits; so does 0 2.
    const std::vector<RankReport> reports{waiting(0, call(50, 1)), waiting(1, call(41, 1)), waiting(2, call(50, 1)),
                                          rank(3)};
    const Verdict verdict = compose_verdict(reports, square);
    EXPECT_EQ(verdict.place.rank, 3);
    EXPECT_THAT(verdict.sentence, AllOf(HasSubstr("rank 1 has waited"), Not(HasSubstr("ranks 0, 2"))));
}

TEST(Verdict, MessagesLeadToWhoShouldSend) {
    const Mesh stages({{"pipeline", 3}});
    const auto from = [&](int number, int peer) {
        return waiting(number, call(3, 1, CallState::begun, CallKind::receive, "h", peer));
    };
    const std::vector<RankReport> reports{waiting(0, call(9, 0)), from(1, 0), from(2, 1)};
    const Verdict verdict = compose_verdict(reports, stages);
    EXPECT_EQ(verdict.place.rank, 0);
    EXPECT_THAT(verdict.sentence, HasSubstr("awaited in a message"));
    EXPECT_THAT(compose_verdict({from(0, 1), from(1, 2), from(2, 0)}, stages).sentence,
                HasSubstr("a message from its rank number")); // a circle ends
}

TEST(Verdict, AllInOneCallIsALink) {
    const Verdict verdict = compose_verdict(all_waiting(), flat);
    EXPECT_THAT(verdict.sentence, HasSubstr("all ranks have entered the same call, which does not end"));
}

TEST(Verdict, AloneItSaysWhatItIsAt) {
    const Verdict verdict = compose_verdict({rank(0, Doing::reading_data)}, Mesh({{"data", 1}}));
    EXPECT_THAT(verdict.sentence, HasSubstr("rank 0 on a (pid 100) is reading data"));
    EXPECT_THAT(verdict.page, Not(HasSubstr("have waited")));
}

TEST(Verdict, ManyRanksAreFewLines) {
    const Mesh wide({{"data", 512}});
    std::vector<RankReport> reports;
    for (int number = 0; number < 512; ++number)
        reports.push_back(number == 300 ? rank(number, Doing::reading_data) : waiting(number, call(41, 1)));
    const Verdict verdict = compose_verdict(reports, wide);
    EXPECT_EQ(verdict.place.rank, 300);
    EXPECT_LT(std::ranges::count(verdict.page, '\n'), 30);
    EXPECT_THAT(verdict.page, HasSubstr("and 503 more on 2 hosts: in all_reduce of 'w'"));
}

class DeadlinesTest : public testing::Test {
protected:
    RankReport at(Activity activity, double age, double median = 0, std::int64_t steps = 10) {
        RankReport report = rank(0);
        report.state.activity = activity;
        report.state.steps_timed = steps;
        report.median = median;
        report.activity_age = report.doing_age = report.step_age = age;
        return report;
    }
    bool is_over(Deadlines& deadlines, RankReport report, double slept = 0) {
        deadlines.judge(report, slept);
        return report.overdue;
    }
};

TEST_F(DeadlinesTest, OfAStep) {
    Deadlines by_itself(0), short_one(3);
    EXPECT_FALSE(is_over(by_itself, at(Activity::training, 29)));
    EXPECT_TRUE(is_over(by_itself, at(Activity::training, 31)));
    EXPECT_FALSE(is_over(by_itself, at(Activity::training, 99, 10)));
    EXPECT_TRUE(is_over(by_itself, at(Activity::training, 101, 10)));
    EXPECT_FALSE(is_over(short_one, at(Activity::training, 2.9)));
    EXPECT_TRUE(is_over(short_one, at(Activity::training, 3.1)));
    EXPECT_FALSE(is_over(short_one, at(Activity::training, 599, 0, 0))) << "the first step";
    EXPECT_TRUE(is_over(short_one, at(Activity::training, 601, 0, 0)));
}

TEST_F(DeadlinesTest, OfTheRest) {
    Deadlines deadlines(3);
    EXPECT_FALSE(is_over(deadlines, at(Activity::starting, 599)));
    EXPECT_TRUE(is_over(deadlines, at(Activity::starting, 601)));
    EXPECT_TRUE(is_over(deadlines, at(Activity::finishing, 121)));
    EXPECT_FALSE(is_over(deadlines, at(Activity::auditing, 29)));
    EXPECT_TRUE(is_over(deadlines, at(Activity::auditing, 31))) << "it comes every few steps, and is as short as one";
    EXPECT_FALSE(is_over(deadlines, at(Activity::saving, 100)));
    EXPECT_FALSE(is_over(deadlines, at(Activity::saving, 599)));
    EXPECT_TRUE(is_over(deadlines, at(Activity::saving, 601)));
    EXPECT_FALSE(is_over(deadlines, at(Activity::training, 1)));
    EXPECT_FALSE(is_over(deadlines, at(Activity::saving, 3'000))) << "5 times the longest so far, 601 s";
    EXPECT_TRUE(is_over(deadlines, at(Activity::saving, 3'006)));
    RankReport evaluation = at(Activity::evaluating, 199, 2);
    evaluation.state.expected = 10; // micro-batches of at most 2 s each
    EXPECT_FALSE(is_over(deadlines, evaluation));
    evaluation.activity_age = 201;
    EXPECT_TRUE(is_over(deadlines, evaluation));
}

TEST_F(DeadlinesTest, OfASaveAfterAnother) {
    const auto after = [&](double whole, double age) {
        RankReport report = at(Activity::saving, age);
        report.state.longest_save = static_cast<std::int64_t>(whole * 1e9);
        return report;
    };
    Deadlines deadlines(3), patient(400);
    EXPECT_FALSE(is_over(deadlines, after(2, 299))) << "a file system that hangs after a quick save";
    EXPECT_TRUE(is_over(deadlines, after(2, 301)));
    EXPECT_FALSE(is_over(patient, after(2, 399))) << "none but a step's is below run.step_timeout";
    EXPECT_TRUE(is_over(patient, after(2, 401)));
    EXPECT_FALSE(is_over(deadlines, after(80, 399))) << "5 times what was written beside training";
    EXPECT_TRUE(is_over(deadlines, after(80, 401)));
}

TEST_F(DeadlinesTest, ASuspendedJobIsNotLate) {
    Deadlines deadlines(3);
    EXPECT_FALSE(is_over(deadlines, at(Activity::training, 1)));
    EXPECT_FALSE(is_over(deadlines, at(Activity::training, 3'601), 3'600));
    EXPECT_TRUE(is_over(deadlines, at(Activity::training, 3'604)));
    EXPECT_FALSE(is_over(deadlines, at(Activity::training, 0.1))) << "the next step";
    EXPECT_TRUE(is_over(deadlines, at(Activity::training, 3.1))) << "of which nothing is pardoned";
}

} // namespace
} // namespace tessera
