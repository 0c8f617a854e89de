// SPDX-License-Identifier: Apache-2.0
// Config: what it reads, in which order sources overrule each other, and every sentence it refuses with.
#include "core/config.hpp"

#include "core/config_catalog.hpp"
#include "core/run/folder.hpp"
#include "kernels/error.hpp"

#include <cmath>
#include <filesystem>
#include <fmt/format.h>
#include <fstream>
#include <gtest/gtest.h>
#include <rapidcheck.h>
#include <unistd.h>

namespace tessera {
namespace {

namespace fs = std::filesystem;

constexpr Key<std::int64_t> steps{"training.steps", 1000, "number of optimizer steps"};
constexpr Key<double> rate{"optimizer.lr", 1e-3, "peak learning rate"};
constexpr Key<bool> compiled{"training.compile", false, "a switch"};
constexpr Key<std::string> reader{"data.reader", "bytes", "name of the reader"};
constexpr Key<std::vector<std::string>> files{"data.files", "a.txt,b.txt", "files to read"};
constexpr Key<std::vector<std::string>> no_files{"data.more_files", "", "more files to read"};

std::vector<KeyInfo> keys() {
    return {key_info(files), key_info(no_files), key_info(reader), key_info(rate), key_info(compiled), key_info(steps)};
}

Config parse(std::string_view text, const std::vector<std::string>& overrides = {}) {
    return Config::parse(text, "gpt.toml", overrides, keys());
}

template <class Action> std::string refusal(Action action) {
    try {
        action();
    } catch (const ConfigError& error) {
        return error.what();
    }
    return "accepted";
}

std::string refusal_of(std::string_view text, const std::vector<std::string>& overrides = {}) {
    return refusal([&] { parse(text, overrides); });
}

// A folder of its own for a test's files.
class Folder {
public:
    Folder() : path_(fs::temp_directory_path() / fmt::format("tessera-config-{}", getpid())) {
        fs::remove_all(path_);
        fs::create_directories(path_);
    }
    ~Folder() { fs::remove_all(path_); }

    std::string write(const std::string& name, std::string_view text) const {
        std::ofstream(path_ / name) << text;
        return (path_ / name).string();
    }
    std::string path(const std::string& name) const { return (path_ / name).string(); }

private:
    fs::path path_;
};

TEST(Config, DefaultsAreTheKeysFallbacks) {
    const Config config = parse("");
    EXPECT_EQ(config.get(steps), 1000);
    EXPECT_EQ(config.get(rate), 1e-3);
    EXPECT_FALSE(config.get(compiled));
    EXPECT_EQ(config.get(reader), "bytes");
    EXPECT_EQ(config.get(files), (std::vector<std::string>{"a.txt", "b.txt"}));
    EXPECT_TRUE(config.get(no_files).empty());
    EXPECT_EQ(config.where("training.steps"), "default");
    EXPECT_FALSE(config.is_set("training.steps"));
}

TEST(Config, ReadsEveryType) {
    const Config config = parse("[training]\nsteps = 2_000\ncompile = true\n[optimizer]\nlr = 3\n"
                                "[data]\nreader = 'hdf5'\nfiles = ['x', \"y\\n\"]\n");
    EXPECT_EQ(config.get(steps), 2000);
    EXPECT_TRUE(config.get(compiled));
    EXPECT_EQ(config.get(rate), 3.0); // an integer passes for a number
    EXPECT_EQ(config.get(reader), "hdf5");
    EXPECT_EQ(config.get(files), (std::vector<std::string>{"x", "y\n"}));
    EXPECT_EQ(config.where("training.steps"), "gpt.toml:2:1");
    EXPECT_EQ(config.where("optimizer.lr"), "gpt.toml:5:1");
    EXPECT_TRUE(config.is_set("optimizer.lr"));
}

TEST(Config, OverridesAreTomlOrABareString) {
    const Config config = parse("", {"training.steps=7", "data.reader=idx files", "training.compile=true",
                                     "data.files=['c']", "optimizer.lr=1e-4"});
    EXPECT_EQ(config.get(steps), 7);
    EXPECT_EQ(config.get(reader), "idx files");
    EXPECT_TRUE(config.get(compiled));
    EXPECT_EQ(config.get(files), std::vector<std::string>{"c"});
    EXPECT_EQ(config.get(rate), 1e-4);
    EXPECT_EQ(config.where("data.reader"), "command line");
    EXPECT_EQ(parse("", {"data.reader=12"}).get(reader), "12");         // a string key takes any text
    EXPECT_EQ(parse("", {"data.reader=\"a b\""}).get(reader), "a b");   // or a TOML string
    EXPECT_EQ(parse("", {"data.reader="}).get(reader), "");             // also none
    EXPECT_EQ(parse("", {"data.reader=x=y"}).get(reader), "x=y");       // only the first sign counts
    EXPECT_EQ(parse("", {"data.reader=1\nb=2"}).get(reader), "1\nb=2"); // and a line end starts no second key
    EXPECT_EQ(parse("", {"training.steps=1", "training.steps=2"}).get(steps), 2);
}

TEST(Config, BaseThenFileThenCommandLine) {
    const Folder folder;
    folder.write("ground.toml", "[training]\nsteps = 1\ncompile = true\n[data]\nreader = 'ground'\n");
    folder.write("middle.toml", "base = 'ground.toml'\n[training]\nsteps = 2\n[optimizer]\nlr = 0.5\n");
    const std::string top = folder.write("top.toml", "base = 'middle.toml'\n[training]\nsteps = 3\n");
    const Config config = Config::load(top, {"optimizer.lr=0.25"}, keys());
    EXPECT_EQ(config.get(steps), 3);
    EXPECT_EQ(config.get(rate), 0.25);
    EXPECT_TRUE(config.get(compiled));
    EXPECT_EQ(config.where("training.steps"), top + ":3:1");
    EXPECT_EQ(config.where("data.reader"), folder.path("ground.toml") + ":5:1");
    EXPECT_EQ(config.where("optimizer.lr"), "command line");
    EXPECT_EQ(config.where("data.files"), "default");
}

TEST(Config, RefusesBasesThatCannotBeRead) {
    const Folder folder;
    const std::string one = folder.write("one.toml", "base = 'two.toml'\n");
    const std::string two = folder.write("two.toml", "base = 'one.toml'\n");
    EXPECT_EQ(refusal([&] { Config::load(one, {}, keys()); }),
              two + ":1:8: base = \"one.toml\": the bases run in a circle: one.toml -> two.toml -> one.toml");
    const std::string alone = folder.write("alone.toml", "\nbase = 'nowhere.toml'\n");
    EXPECT_EQ(refusal([&] { Config::load(alone, {}, keys()); }), alone + ":2:8: base = \"nowhere.toml\": cannot read " +
                                                                     folder.path("nowhere.toml") +
                                                                     ": No such file or directory");
    const std::string number = folder.write("number.toml", "base = 3\n");
    EXPECT_EQ(refusal([&] { Config::load(number, {}, keys()); }),
              number + ":1:8: base = 3: expected the name of a file, found an integer");
    EXPECT_EQ(refusal_of("base = 'ground.toml'"), "gpt.toml:1:8: only a config that is a file has a base");
    EXPECT_EQ(refusal([&] { Config::load(folder.path(""), {}, keys()); }),
              "cannot read " + folder.path("") + ": it is a folder");
    EXPECT_EQ(refusal([&] { Config::load(folder.path("none.toml"), {}, keys()); }),
              "cannot read " + folder.path("none.toml") + ": No such file or directory");
}

// Each part of a dotted name becomes a table, and 50,000 tables inside one another end the process.
TEST(Config, RefusesNamesOfManyParts) {
    std::string deep = "a";
    for (int i = 0; i < 100'000; ++i)
        deep += ".a";
    const std::string said = ": a name of more than 16 parts";
    EXPECT_EQ(refusal_of("\n\n[" + deep + "]"), "gpt.toml:3" + said);
    EXPECT_EQ(refusal_of(deep + " = 1"), "gpt.toml:1" + said);
    EXPECT_EQ(refusal_of("x = [\n{" + deep + " = 1}]"), "gpt.toml:2" + said);
    // Strings that end otherwise than they seem to must not hide what follows
    for (const std::string text : {R"('''a'''')", R"("""a""""")", R"("\"")", R"('\')", R"("#")", R"('"')", R"("'")"})
        EXPECT_EQ(refusal_of("x = {y = " + text + ", " + deep + " = 1}"), "gpt.toml:1" + said) << text;
    std::string quoted;
    for (int i = 0; i < 20; ++i)
        quoted += R"("=[.". '#'  .)";
    EXPECT_EQ(refusal_of(quoted + "a = 1"), "gpt.toml:1" + said);
    const std::string dots = "a.b.c.d.e.f.g.h.i.j.k.l.m.n.o.p.q.r.s.t";
    EXPECT_EQ(parse("# " + dots + "\ndata.reader = '" + dots + "'").get(reader), dots);
    EXPECT_EQ(parse("data.files = [\"" + dots + "\", '''" + dots + "''']").get(files).size(), 2u);
    EXPECT_EQ(parse("", {"data.reader=" + deep}).get(reader), deep);
    EXPECT_EQ(refusal_of("x = " + std::string(100'000, '[')).substr(0, 9), "gpt.toml:");
}

TEST(Config, RefusesFilesThatNeverEnd) {
    const Folder folder;
    const std::string device = folder.write("device.toml", "base = '/dev/zero'\n");
    EXPECT_EQ(refusal([&] { Config::load(device, {}, keys()); }),
              device + ":1:8: base = \"/dev/zero\": /dev/zero has over 4194304 bytes, which no config has");
}

TEST(Config, RefusesUnknownNames) {
    EXPECT_EQ(refusal_of("[training]\n  stepz = 3"),
              "gpt.toml:2:3: no key named 'training.stepz'; did you mean 'training.steps'?");
    EXPECT_EQ(refusal_of("[trainning]\nsteps = 3"),
              "gpt.toml:1:2: no section named 'trainning'; did you mean 'training'?");
    EXPECT_EQ(refusal_of("[zzzzzzzzz]\n"),
              "gpt.toml:1:2: no section named 'zzzzzzzzz'; there are: data, optimizer, training");
    EXPECT_EQ(refusal_of("steps = 3"), "gpt.toml:1:1: no key named 'steps'; did you mean 'training.steps'?");
    EXPECT_EQ(refusal_of("[training]\nlr = 3"),
              "gpt.toml:2:1: no key named 'training.lr'; did you mean 'optimizer.lr'?");
    EXPECT_EQ(refusal_of("[training.steps]\nmany = 3"),
              "gpt.toml:1:11: training.steps = {...}: expected an integer, found a section");
    EXPECT_EQ(refusal_of("", {"training.stepz=3"}),
              "command line: no key named 'training.stepz'; did you mean 'training.steps'?");
    EXPECT_EQ(refusal_of("", {"qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqq=3"}),
              "command line: no key named 'qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqq'; `tessera config explain` lists them "
              "all");
    EXPECT_EQ(refusal_of("", {"training.steps"}),
              "command line: 'training.steps' is not of the form section.key=value");
    EXPECT_EQ(refusal_of("", {"=3"}), "command line: '=3' is not of the form section.key=value");
}

TEST(Config, RefusesOtherTypes) {
    EXPECT_EQ(refusal_of("[training]\nsteps = 'many'"),
              "gpt.toml:2:1: training.steps = 'many': expected an integer, found a string");
    EXPECT_EQ(refusal_of("[training]\nsteps = 2.5"),
              "gpt.toml:2:1: training.steps = 2.5: expected an integer, found a number with a fraction");
    EXPECT_EQ(refusal_of("[training]\ncompile = 1"),
              "gpt.toml:2:1: training.compile = 1: expected true or false, found an integer");
    EXPECT_EQ(refusal_of("[optimizer]\nlr = true"),
              "gpt.toml:2:1: optimizer.lr = true: expected a number, found a bool");
    EXPECT_EQ(refusal_of("[data]\nreader = 3"), "gpt.toml:2:1: data.reader = 3: expected a string, found an integer");
    EXPECT_EQ(refusal_of("[data]\nfiles = ['a', 3]"),
              "gpt.toml:2:1: data.files = [ 'a', 3 ]: expected a list of strings, [\"one\", \"two\"], found a list");
    EXPECT_EQ(refusal_of("[data]\nreader = 2020-01-01"),
              "gpt.toml:2:1: data.reader = 2020-01-01: expected a string, found a date or time");
    EXPECT_EQ(refusal_of("", {"training.steps=many"}),
              "command line: training.steps = 'many': expected an integer, found a string");
    EXPECT_EQ(refusal_of("", {"training.compile="}),
              "command line: training.compile = '': expected true or false, found a string");
}

TEST(Config, SyntaxErrorsAreOneSentenceWithAPlace) {
    for (const std::string text : {"[training\nsteps = 3", "[training]\nsteps == 3", "[training]\nsteps = 3\nsteps = 4",
                                   "a = \"\n", "x = 1 y = 2", "\xff\xfe"}) {
        const std::string message = refusal_of(text);
        EXPECT_TRUE(message.starts_with("gpt.toml:")) << message;
        EXPECT_EQ(message.find('\n'), std::string::npos) << message;
    }
    EXPECT_TRUE(refusal_of("[training]\nsteps == 3").starts_with("gpt.toml:2:8: "));
}

TEST(Config, RefusesWhatAComponentCannotAccept) {
    const Config config = parse("\n[training]\nsteps = -5");
    EXPECT_EQ(refusal([&] { config.refuse("training.steps", "must be positive"); }),
              "gpt.toml:3:1: training.steps = -5: must be positive");
    EXPECT_EQ(refusal([&] { config.refuse("data.reader", "no such reader"); }),
              "default: data.reader = \"bytes\": no such reader");
}

TEST(Config, RefusesWhatNobodyRead) {
    const Config config = parse("[training]\nsteps = 5\ncompile = true", {"optimizer.lr=1"});
    config.get(steps);
    EXPECT_EQ(refusal([&] { config.refuse_unread(); }),
              "these keys are set, but nothing in this run reads them: optimizer.lr (command line), training.compile "
              "(gpt.toml:3:1)");
    config.get(rate);
    EXPECT_EQ(refusal([&] { config.refuse_unread(); }),
              "this key is set, but nothing in this run reads it: training.compile (gpt.toml:3:1)");
    config.get(compiled);
    EXPECT_EQ(refusal([&] { config.refuse_unread(); }), "accepted"); // defaults need no reader
}

TEST(Config, KeysOutsideTheCatalogAreOurFault) {
    constexpr Key<bool> stray{"training.stray", false, ""};
    EXPECT_THROW(parse("").get(stray), InternalError);
    EXPECT_THROW(Config::parse("", "x", {}, {key_info(steps), key_info(steps)}), InternalError);
}

TEST(Config, ResolvedIsTomlInSections) {
    EXPECT_EQ(parse("[training]\nsteps = 3").resolved(), R"([data]
files = ["a.txt", "b.txt"]
more_files = []
reader = "bytes"

[optimizer]
lr = 0.001

[training]
compile = false
steps = 3
)");
}

TEST(Config, OriginsIsALineForEachKey) {
    EXPECT_EQ(parse("[training]\nsteps = 3", {"data.reader=x"}).origins(),
              R"(data.files = ["a.txt", "b.txt"]   # default
data.more_files = []              # default
data.reader = "x"                 # command line
optimizer.lr = 0.001              # default
training.compile = false          # default
training.steps = 3                # gpt.toml:2:1
)");
}

TEST(Config, ResolvedAndOriginsParseToTheSameAgain) {
    const bool right = rc::check([](std::int64_t count, double number, bool flag) {
        const auto text = *rc::gen::container<std::string>(rc::gen::inRange<char>(1, 127));
        const auto list = *rc::gen::container<std::vector<std::string>>(
            rc::gen::container<std::string>(rc::gen::inRange<char>(1, 127)));
        Config config = parse("");
        config.settle("training.steps", count);
        config.settle("optimizer.lr", number);
        config.settle("training.compile", flag);
        config.settle("data.reader", text);
        config.settle("data.files", list);
        for (const std::string& written : {config.resolved(), config.origins()}) {
            const Config again = parse(written);
            RC_ASSERT(again.resolved() == config.resolved());
            RC_ASSERT(again.get(steps) == count);
            RC_ASSERT(again.get(rate) == number);
            RC_ASSERT(again.get(reader) == text);
            RC_ASSERT(again.get(files) == list);
        }
    });
    EXPECT_TRUE(right);
}

TEST(Config, NumbersThatAreNotFiniteParseAgain) {
    Config config = parse("");
    config.settle("optimizer.lr", std::numeric_limits<double>::infinity());
    EXPECT_EQ(parse(config.resolved()).get(rate), std::numeric_limits<double>::infinity());
    config.settle("optimizer.lr", std::nan(""));
    EXPECT_TRUE(std::isnan(parse(config.resolved()).get(rate)));
    EXPECT_THROW(config.settle("optimizer.lr", std::string("fast")), InternalError);
}

TEST(ConfigCatalog, IsAlphabeticalAndEveryKeyIsExplained) {
    const std::vector<KeyInfo> known = known_keys();
    ASSERT_FALSE(known.empty());
    for (std::size_t i = 0; i < known.size(); ++i) {
        EXPECT_TRUE(i == 0 || known[i - 1].name < known[i].name) << known[i].name;
        EXPECT_FALSE(known[i].help.empty()) << known[i].name;
        EXPECT_LE(known[i].help.size(), 120u) << known[i].name;
    }
    const Config config = Config::parse("", "empty.toml", {}, known);
    EXPECT_EQ(Config::parse(config.resolved(), "again.toml", {}, known).resolved(), config.resolved());
}

TEST(RunFolder, IsNamedAfterTheConfigFile) {
    const auto folder_of = [](const std::string& file, const std::vector<std::string>& overrides) {
        Config config = Config::parse("", file, overrides, known_keys());
        const std::string folder = settle_run_folder(config);
        // What was settled stays when the resolved config is read back from another place.
        Config again = Config::parse(config.resolved(), folder + "/config.toml", {}, known_keys());
        EXPECT_EQ(settle_run_folder(again), folder);
        return folder;
    };
    EXPECT_EQ(folder_of("configs/gpt.toml", {}), "runs/gpt");
    EXPECT_EQ(folder_of("configs/gpt.toml", {"run.name=first"}), "runs/first");
    EXPECT_EQ(folder_of("configs/gpt.toml", {"run.folder=/scratch/x"}), "/scratch/x");
    EXPECT_EQ(refusal([&] { folder_of("gpt.toml", {"run.name=a/b"}); }),
              "command line: run.name = \"a/b\": expected a name without '/' and without a leading '.'");
}

} // namespace
} // namespace tessera
