// SPDX-License-Identifier: Apache-2.0
// Command lines over Boost.Program_options. The only file that includes it.
#include "launcher/command_line.hpp"

#include "kernels/error.hpp"
#include "kernels/nearest_name.hpp"

#include <algorithm>
#include <boost/program_options.hpp>
#include <charconv>
#include <fmt/format.h>
#include <sstream>

namespace tessera {
namespace {

namespace po = boost::program_options;

constexpr const char* words_name = "words";

po::options_description described(const Usage& usage) {
    po::options_description result("Options", 80, 50);
    for (const Option& option : usage.options) {
        if (option.argument.empty())
            result.add_options()(option.names.c_str(), option.help.c_str());
        else
            result.add_options()(option.names.c_str(),
                                 po::value<std::vector<std::string>>()->value_name(option.argument),
                                 option.help.c_str());
    }
    result.add_options()("help,h", "show this text");
    return result;
}

std::string long_name(const Option& option) { return option.names.substr(0, option.names.find(',')); }

std::string unknown_option(const Usage& usage, const std::string& name) {
    std::vector<std::string> known{"--help"};
    for (const Option& option : usage.options)
        known.push_back("--" + long_name(option));
    return no_such_name("option", name, {known.begin(), known.end()});
}

} // namespace

std::string help_text(const Usage& usage) {
    std::ostringstream options;
    options << described(usage);
    return fmt::format("usage: tessera {}\n\n{}\n{}", usage.synopsis, usage.text, options.str());
}

Arguments::Arguments(const Usage& usage, const std::vector<std::string>& words) : all_(words) {
    po::options_description all = described(usage);
    all.add_options()(words_name, po::value<std::vector<std::string>>());
    po::positional_options_description positions;
    positions.add(words_name, -1);
    wants_help_ = std::find(words.begin(), words.end(), "--help") != words.end() ||
                  std::find(words.begin(), words.end(), "-h") != words.end();
    if (wants_help_) return;

    po::variables_map parsed;
    try {
        const int style = po::command_line_style::unix_style & ~po::command_line_style::allow_guessing;
        po::store(po::command_line_parser(words).options(all).positional(positions).style(style).run(), parsed);
    } catch (const po::unknown_option& error) {
        throw ConfigError(unknown_option(usage, error.get_option_name()));
    } catch (const po::error& error) {
        throw ConfigError(error.what());
    }
    for (const Option& option : usage.options) {
        const auto found = parsed.find(long_name(option));
        if (found == parsed.end()) continue;
        if (option.argument.empty())
            options_[found->first] = {""};
        else
            options_[found->first] = found->second.as<std::vector<std::string>>();
        if (options_[found->first].size() > 1 && !option.repeats)
            throw ConfigError(fmt::format("--{} is said {} times", found->first, options_[found->first].size()));
    }
    if (parsed.count(words_name) > 0) words_ = parsed[words_name].as<std::vector<std::string>>();
    if (words_.size() < usage.least || words_.size() > usage.most)
        throw ConfigError(fmt::format("found {}; usage: tessera {}",
                                      words_.empty() ? "no argument"
                                                     : "arguments '" + fmt::format("{}", fmt::join(words_, " ")) + "'",
                                      usage.synopsis));
}

std::optional<std::string> Arguments::text(const std::string& option) const {
    const auto found = options_.find(option);
    if (found == options_.end()) return std::nullopt;
    return found->second.front();
}

std::vector<std::string> Arguments::texts(const std::string& option) const {
    const auto found = options_.find(option);
    return found == options_.end() ? std::vector<std::string>() : found->second;
}

std::optional<std::int64_t> Arguments::integer(const std::string& option, std::int64_t least, std::int64_t most) const {
    const std::optional<std::string> found = text(option);
    if (!found) return std::nullopt;
    return parse_integer("--" + option, *found, least, most);
}

std::int64_t parse_integer(const std::string& what, const std::string& text, std::int64_t least, std::int64_t most) {
    std::int64_t value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc() || end != text.data() + text.size() || value < least || value > most)
        throw ConfigError(fmt::format("{} {}: expected a whole number from {} to {}", what, text, least, most));
    return value;
}

std::string counted(std::int64_t count, const std::string& noun) {
    return fmt::format("{} {}{}", count, noun, count == 1 ? "" : "s");
}

} // namespace tessera
