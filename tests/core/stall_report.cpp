// SPDX-License-Identifier: Apache-2.0
// What watchdogs send each other: it comes back as it was, and whatever else comes is refused without harm.
#include "core/watch/stall_report.hpp"

#include "core/watch/watch_socket.hpp"
#include "kernels/error.hpp"

#include <cstring>
#include <gtest/gtest.h>
#include <random>

namespace tessera {
namespace {

RankReport example() {
    RankReport report;
    report.place = {3, "c01", 4711};
    report.contact = Contact::silent;
    report.process = 'T';
    report.silence = 4.5;
    report.overdue = true;
    report.deadline = 30;
    report.median = 0.25;
    report.state.activity = Activity::saving;
    report.state.doing = Doing::computing;
    report.state.step = 11;
    report.state.micro_batch = -1;
    report.state.in_step = true;
    report.state.work = "layers.1.norm";
    report.activity_age = 7;
    report.doing_age = 6;
    report.step_age = 5;
    for (int i = 0; i < 3; ++i)
        report.calls.push_back(
            {{100 - i, 2, CallKind::reduce_scatter, CallState::begun, DType::bf16, -1, 4096, 0, 0, "w"}, 1.5 + i});
    return report;
}

TEST(StallReport, ComesBackAsItWas) {
    const std::optional<RankReport> back = decoded(encoded(example()));
    ASSERT_TRUE(back);
    EXPECT_EQ(encoded(*back), encoded(example()));
    EXPECT_EQ(back->place, (RankPlace{3, "c01", 4711}));
    EXPECT_EQ(back->process, 'T');
    EXPECT_TRUE(back->overdue && back->waits());
    EXPECT_EQ(back->state.activity, Activity::saving);
    EXPECT_EQ(back->state.work, "layers.1.norm");
    ASSERT_EQ(back->calls.size(), 3u);
    EXPECT_EQ(back->calls[2].call.number, 98);
    EXPECT_EQ(back->calls[2].call.dtype, DType::bf16);
    EXPECT_EQ(back->calls[2].age, 3.5);
}

TEST(StallReport, TheLargestFitsAMessage) {
    RankReport report = example();
    report.place.host = std::string(10'000, 'h');
    report.calls.assign(1000,
                        {{1, 1, CallKind::send, CallState::ended, DType::f32, 1, 1, 0, 0, std::string(64, 'n')}, 1});
    const std::string bytes = encoded(report);
    EXPECT_LT(bytes.size(), most_message_bytes);
    EXPECT_TRUE(decoded(bytes));
}

TEST(StallReport, GarbageIsNone) {
    const std::string good = encoded(example());
    for (std::size_t size = 0; size < good.size(); ++size)
        EXPECT_FALSE(decoded(std::string_view(good).substr(0, size))) << size;
    EXPECT_FALSE(decoded(good + "x"));
    EXPECT_FALSE(decoded(std::string(most_message_bytes + 1, '\0')));
    std::mt19937 draw(1);
    for (int i = 0; i < 20'000; ++i) { // whatever comes out of it can be sent on
        std::string bytes = good;
        for (int changes = 0; changes < 1 + i % 4; ++changes)
            bytes[draw() % bytes.size()] = static_cast<char>(draw());
        const auto report = decoded(bytes);
        EXPECT_TRUE(!report || decoded(encoded(*report)));
    }
}

TEST(MessageParser, PutsPiecesTogether) {
    const std::string stream = framed('h', "one") + framed('b', "") + framed('f', std::string(60'000, 'x'));
    for (const std::size_t piece : {1u, 2u, 7u, 100'000u}) {
        MessageParser parser;
        std::vector<WatchMessage> got;
        for (std::size_t at = 0; at < stream.size(); at += piece) {
            parser.add(std::string_view(stream).substr(at, piece));
            while (auto message = parser.next())
                got.push_back(*message);
        }
        ASSERT_EQ(got.size(), 3u);
        EXPECT_EQ(got[0].kind, 'h');
        EXPECT_EQ(got[0].body, "one");
        EXPECT_EQ(got[1].body, "");
        EXPECT_EQ(got[2].body.size(), 60'000u);
        EXPECT_FALSE(parser.broken());
    }
}

TEST(MessageParser, RefusesWhatIsTooLongOrEmpty) {
    for (const std::uint32_t length : {0u, static_cast<std::uint32_t>(most_message_bytes) + 1, 0xffffffffu}) {
        MessageParser parser;
        std::string bytes(4, '\0');
        std::memcpy(bytes.data(), &length, 4);
        parser.add(bytes);
        EXPECT_FALSE(parser.next());
        EXPECT_TRUE(parser.broken());
        parser.add(framed('h', "later")); // means nothing any more
        EXPECT_FALSE(parser.next());
    }
    EXPECT_THROW(framed('x', std::string(most_message_bytes, 'x')), InternalError);
}

TEST(WatchToken, IsDrawnAndCompared) {
    const WatchToken token = draw_token();
    EXPECT_TRUE(is_equal(token, token));
    EXPECT_FALSE(is_equal(token, draw_token()));
    for (std::size_t i = 0; i < token.size(); ++i) {
        WatchToken other = token;
        other[i] ^= 1;
        EXPECT_FALSE(is_equal(token, other));
    }
}

} // namespace
} // namespace tessera
