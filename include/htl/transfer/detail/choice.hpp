// SPDX-License-Identifier: Apache-2.0
/// @file choice.hpp
/// @brief Enumerators by their names in files and on command lines, with the nearest name in the error.
#pragma once

#include <htl/task/check.hpp>

#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace htl::inline v0_1_0::detail {

/// @brief The names of an enumeration's values.
template <class Enum>
using Choices = std::vector<std::pair<std::string, Enum>>;

/// @brief The value of a name.
/// @throws c10::ValueError naming the nearest name and all names
template <class Enum>
Enum choose(std::string_view who, std::string_view name, const Choices<Enum>& choices) {
  std::vector<std::string> names;
  for (const auto& [known, value] : choices) {
    if (known == name) return value;
    names.push_back(known);
  }
  HTL_CHECK(false, who, ": unknown value \"", name, "\"; did you mean \"", nearest(name, names), "\"? Known: ", quoted(names));
}

/// @brief The name of a value; "unknown" for a number that is none.
template <class Enum>
std::string name_of(Enum value, const Choices<Enum>& choices) {
  for (const auto& [name, known] : choices)
    if (known == value) return name;
  return "unknown";
}

}  // namespace htl::detail
