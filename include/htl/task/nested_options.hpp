// SPDX-License-Identifier: Apache-2.0
/// @file nested_options.hpp
/// @brief What a transform that wraps another writes into options and statistics.
/// Not in the umbrella: include it where it is used.
#pragma once

#include <htl/task/label_transform.hpp>

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

namespace htl::inline v0_1_0 {

namespace detail {

/// A transform as an option of one that wraps it.
inline Spec spec_of(const AnyLabelTransform& transform) { return {transform.name(), transform.parameters()}; }

/// Adds options under names that begin with a prefix.
inline void add_below(Options& to, const std::string& prefix, const Options& options) {
  for (const auto& [name, option] : options) to.set(prefix + name, option);
}
/// The options whose names begin with a prefix, without it.
inline Options options_below(const Options& options, const std::string& prefix) {
  std::vector<std::pair<std::string, Option>> found;
  for (const auto& [name, option] : options)
    if (name.starts_with(prefix)) found.emplace_back(name.substr(prefix.size()), option);
  Options result;
  for (auto& [name, option] : found) result.set(std::move(name), std::move(option));
  return result;
}
inline std::vector<std::string> joined(std::vector<std::string> names, const std::vector<std::string>& more) {
  for (const std::string& name : more)
    if (std::find(names.begin(), names.end(), name) == names.end()) names.push_back(name);
  return names;
}

}  // namespace detail

}  // namespace htl
