// SPDX-License-Identifier: Apache-2.0
// JSON from anywhere, read without building a tree of it: what is kept, and so what is allocated, is up to the reader.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace tessera {

// Is told what stands in a text, in its order. Whatever it does not want it refuses by throwing ConfigError.
class JsonReader {
public:
    virtual ~JsonReader() = default;
    virtual void begin_object() = 0;
    virtual void key(std::string_view name) = 0; // of the value that follows
    virtual void end_object() = 0;
    virtual void begin_array() = 0;
    virtual void end_array() = 0;
    virtual void text(std::string_view value) = 0;
    virtual void number(std::uint64_t value) = 0;
    virtual void real(double) { other(); } // a number that is no std::uint64_t
    virtual void truth(bool) { other(); }
    virtual void other() = 0; // null, and what is not taken by a function of its own
};

// Throws ConfigError "WHERE: the text is not JSON (byte 17)", or "… nested more than 8 deep".
void read_json(std::string_view text, const std::string& where, JsonReader& reader);

// "…" with quotes and escapes, ASCII only. Bytes that are no UTF-8 become U+FFFD.
std::string json_string(std::string_view text);

} // namespace tessera
