// SPDX-License-Identifier: Apache-2.0
// nlohmann/json's event interface; its parser is no recursion.
#include "core/json.hpp"

#include "kernels/error.hpp"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

namespace tessera {
namespace {

using nlohmann::json;

constexpr int deepest = 8; // no file that is read here has more than three

class Events final : public json::json_sax_t {
public:
    Events(const std::string& where, JsonReader& reader) : where_(where), reader_(reader) {}

    bool null() override { return other(); }
    bool boolean(bool value) override {
        reader_.truth(value);
        return true;
    }
    bool number_integer(std::int64_t value) override { // is told of negative ones only
        reader_.real(static_cast<double>(value));
        return true;
    }
    bool number_unsigned(std::uint64_t value) override {
        reader_.number(value);
        return true;
    }
    bool number_float(double value, const std::string&) override {
        reader_.real(value);
        return true;
    }
    bool string(std::string& value) override {
        reader_.text(value);
        return true;
    }
    bool binary(json::binary_t&) override { return other(); }
    bool start_object(std::size_t) override {
        deeper();
        reader_.begin_object();
        return true;
    }
    bool key(std::string& name) override {
        reader_.key(name);
        return true;
    }
    bool end_object() override {
        --depth_;
        reader_.end_object();
        return true;
    }
    bool start_array(std::size_t) override {
        deeper();
        reader_.begin_array();
        return true;
    }
    bool end_array() override {
        --depth_;
        reader_.end_array();
        return true;
    }
    bool parse_error(std::size_t byte, const std::string&, const nlohmann::detail::exception&) override {
        throw ConfigError(fmt::format("{}: the text is not JSON (byte {})", where_, byte));
    }

private:
    bool other() {
        reader_.other();
        return true;
    }
    void deeper() {
        if (++depth_ > deepest) throw ConfigError(fmt::format("{}: JSON nested more than {} deep", where_, deepest));
    }

    const std::string& where_;
    JsonReader& reader_;
    int depth_ = 0;
};

} // namespace

void read_json(std::string_view text, const std::string& where, JsonReader& reader) {
    Events events(where, reader);
    json::sax_parse(text, &events);
}

std::string json_string(std::string_view text) {
    return json(text).dump(-1, ' ', true, json::error_handler_t::replace);
}

} // namespace tessera
