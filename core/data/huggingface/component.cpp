// SPDX-License-Identifier: Apache-2.0
#include "core/data/huggingface/component.hpp"

#include "kernels/error.hpp"

#include <fmt/format.h>

namespace tessera::huggingface {
namespace {

[[noreturn]] void refuse(const JsonValue& component, std::string_view name, const char* expected) {
    const JsonValue* type = component.find("type");
    throw ConfigError(fmt::format(
        "tokenizer: '{}' of {} is no {}", name,
        type != nullptr && !type->text.empty() ? fmt::format("{:.40}", type->text) : "a component", expected));
}

} // namespace

bool truth_of(const JsonValue& component, std::string_view name, bool otherwise) {
    const JsonValue* value = present(component.find(name));
    if (value == nullptr) return otherwise;
    if (!value->is(JsonValue::Kind::truth)) refuse(component, name, "truth value");
    return value->truth;
}

std::string text_of(const JsonValue& component, std::string_view name, std::string_view otherwise) {
    const JsonValue* value = present(component.find(name));
    if (value == nullptr) return std::string(otherwise);
    if (!value->is(JsonValue::Kind::text)) refuse(component, name, "string");
    return value->text;
}

std::string type_of(const JsonValue& component) {
    const JsonValue* type = component.find("type");
    if (type == nullptr || !type->is(JsonValue::Kind::text)) refuse(component, "type", "string");
    return type->text.substr(0, 40);
}

const JsonValue& list_of(const JsonValue& component, std::string_view name) {
    const JsonValue* list = component.find(name);
    if (list == nullptr || !list->is(JsonValue::Kind::array)) refuse(component, name, "list");
    return *list;
}

} // namespace tessera::huggingface
