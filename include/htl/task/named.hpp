// SPDX-License-Identifier: Apache-2.0
/// @file named.hpp
/// @brief Named: a few values by name, in the order in which they were added.
#pragma once

#include <htl/task/check.hpp>

#include <algorithm>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace htl::inline v0_1_0 {

/// @brief A small map that keeps its order: labels, outputs, losses and predictions by task name.
///
/// Look-up is linear: T is small, and nothing hashes strings in a training step.
/// @tparam Value what a name stands for
template <class Value>
class Named {
 public:
  Named() = default;
  /// @brief The given pairs, in their order; O(n log n), for large sets.
  /// @throws c10::ValueError if a name is there twice
  explicit Named(std::vector<std::pair<std::string, Value>> entries) : entries_(std::move(entries)) {
    std::vector<std::string_view> sorted;
    sorted.reserve(entries_.size());
    for (const auto& entry : entries_) sorted.emplace_back(entry.first);
    std::sort(sorted.begin(), sorted.end());
    const auto twice = std::adjacent_find(sorted.begin(), sorted.end());
    HTL_CHECK(twice == sorted.end(), "htl::Named: the name \"", twice == sorted.end() ? std::string_view() : *twice, "\" is there twice");
  }

  /// @brief Adds a value, or replaces the one of that name.
  Named& set(std::string name, Value value) {
    if (Value* present = find(name)) {
      *present = std::move(value);
    } else {
      entries_.emplace_back(std::move(name), std::move(value));
    }
    return *this;
  }

  /// @brief The value of that name.
  /// @throws c10::IndexError naming the nearest name and all names
  const Value& operator[](std::string_view name) const {
    const Value* present = find(name);
    HTL_CHECK_INDEX(present, "htl: there is no \"", name, "\" here; ",
                    entries_.empty() ? "nothing is" : "did you mean \"" + nearest(name, names()) + "\"? Present: " + quoted(names()));
    return *present;
  }

  /// @brief The value of that name, or nullptr.
  const Value* find(std::string_view name) const {
    for (const auto& [key, value] : entries_)
      if (key == name) return &value;
    return nullptr;
  }
  /// @brief The value of that name, or nullptr.
  Value* find(std::string_view name) {
    for (auto& [key, value] : entries_)
      if (key == name) return &value;
    return nullptr;
  }

  /// @brief Whether the name is present.
  bool contains(std::string_view name) const { return find(name) != nullptr; }
  /// @brief All names, in order.
  std::vector<std::string> names() const {
    std::vector<std::string> result;
    result.reserve(entries_.size());
    for (const auto& entry : entries_) result.push_back(entry.first);
    return result;
  }
  /// @brief The number of values.
  size_t size() const { return entries_.size(); }
  /// @brief Whether there are none.
  bool empty() const { return entries_.empty(); }
  /// @brief Pairs (name, value), in order.
  auto begin() const { return entries_.begin(); }
  /// @brief End of the pairs.
  auto end() const { return entries_.end(); }
  /// @brief Pairs (name, value), in order.
  auto begin() { return entries_.begin(); }
  /// @brief End of the pairs.
  auto end() { return entries_.end(); }

 private:
  std::vector<std::pair<std::string, Value>> entries_;
};

}  // namespace htl
