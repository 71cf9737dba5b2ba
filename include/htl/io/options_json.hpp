// SPDX-License-Identifier: Apache-2.0
/// @file options_json.hpp
/// @brief Options as JSON, and back.
#pragma once

#include <htl/io/json.hpp>
#include <htl/task/option.hpp>

namespace htl::inline v0_1_0 {

/// @brief Options as a JSON object: numbers (with every bit), true or false, texts, lists of numbers; a Spec as {"name": …, "options": {…}}.
inline nlohmann::ordered_json to_json(const Options& options) {
  using Json = nlohmann::ordered_json;
  Json object = Json::object();
  for (const auto& [name, option] : options) {
    Json& value = object[name];
    std::visit(
        [&](const auto& held) {
          if constexpr (requires { held->options; }) {
            value = Json{{"name", held->name}, {"options", to_json(held->options)}};
          } else {
            value = held;
          }
        },
        option.value());
  }
  return object;
}

/// @brief Options from what to_json() gave.
/// @param json an object
/// @param where begins every sentence
/// @throws c10::ValueError naming the key whose value is none of an option
inline Options options_from_json(const nlohmann::json& json, const std::string& where) {
  HTL_CHECK(json.is_object(), where, ": expected an object, got ", json.type_name());
  std::vector<std::pair<std::string, Option>> options;
  for (const auto& [name, value] : json.items()) {
    if (value.is_boolean()) {
      options.emplace_back(name, value.template get<bool>());
    } else if (value.is_number()) {
      options.emplace_back(name, value.template get<double>());
    } else if (value.is_string()) {
      options.emplace_back(name, value.template get<std::string>());
    } else if (value.is_object()) {
      detail::JsonObject spec(value, c10::str(where, ".", name));
      const std::string inner = spec.text("name");
      options.emplace_back(name, Spec{inner, spec.has("options") ? options_from_json(spec.at("options"), c10::str(where, ".", name)) : Options()});
      spec.finish();
    } else {
      const bool numbers = value.is_array() && std::all_of(value.begin(), value.end(), [](const auto& element) { return element.is_number(); });
      HTL_CHECK(numbers, where, ": expected a number, true or false, a text, numbers, or {\"name\": …, \"options\": …} under \"", name, "\", got ",
                value.is_array() ? "a list of something else" : value.type_name());
      options.emplace_back(name, value.template get<std::vector<double>>());
    }
  }
  Options result;
  for (auto& [name, option] : options) result.set(std::move(name), std::move(option));
  return result;
}

}  // namespace htl
