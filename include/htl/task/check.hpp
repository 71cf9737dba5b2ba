// SPDX-License-Identifier: Apache-2.0
/// @file check.hpp
/// @brief The one format of error sentences: who, what was expected, what came, what to do.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <cstdint>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

/// Throws c10::ValueError with the given sentence unless the condition holds. Arguments are formatted only on failure.
#define HTL_CHECK(condition, ...) TORCH_CHECK_VALUE(condition, __VA_ARGS__)
/// Throws c10::IndexError: an id, a row or a name is outside what exists.
#define HTL_CHECK_INDEX(condition, ...) TORCH_CHECK_INDEX(condition, __VA_ARGS__)
/// Throws c10::TypeError: a tensor has the wrong element type.
#define HTL_CHECK_TYPE(condition, ...) TORCH_CHECK_TYPE(condition, __VA_ARGS__)
/// Throws c10::Error: the call comes at the wrong moment, whatever its arguments.
#define HTL_CHECK_STATE(condition, ...) TORCH_CHECK(condition, __VA_ARGS__)

namespace htl::inline v0_1_0 {

/// @brief A tensor's shape as text, "[3, 5]"; "undefined" for an undefined tensor. Does not read data.
inline std::string shape_of(const at::Tensor& tensor) {
  if (!tensor.defined()) return "undefined";
  std::ostringstream text;
  text << tensor.sizes();
  return text.str();
}

/// @brief Checks a tensor's shape; -1 stands for any size.
/// @param who the caller, "htl::Tower"
/// @param what the argument's name
/// @param tensor the argument
/// @param expected the sizes; -1 = any
/// @throws c10::ValueError naming all of these
inline void check_shape(std::string_view who, std::string_view what, const at::Tensor& tensor, std::vector<int64_t> expected) {
  bool fits = tensor.defined() && tensor.dim() == static_cast<int64_t>(expected.size());
  for (size_t i = 0; fits && i < expected.size(); ++i) fits = expected[i] < 0 || tensor.size(static_cast<int64_t>(i)) == expected[i];
  if (fits) return;
  std::string wanted;
  for (const int64_t size : expected) wanted += (wanted.empty() ? "" : ", ") + (size < 0 ? std::string("any") : std::to_string(size));
  HTL_CHECK(false, who, ": expected ", what, " of shape [", wanted, "], got ", shape_of(tensor));
}

namespace detail {

/// How many letters must be put in, taken out or exchanged to make one word of another.
inline size_t edit_distance(std::string_view word, std::string_view other) {
  std::vector<size_t> row(other.size() + 1);
  for (size_t j = 0; j <= other.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= word.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= other.size(); ++j) {
      const size_t substituted = diagonal + (word[i - 1] == other[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, substituted});
    }
  }
  return row.back();
}

}  // namespace detail

/// @brief The candidate with the smallest edit distance to the word; empty without candidates. For "did you mean …".
inline std::string nearest(std::string_view word, const std::vector<std::string>& candidates) {
  std::string best;
  size_t best_distance = static_cast<size_t>(-1);
  for (const std::string& candidate : candidates)
    if (const size_t distance = detail::edit_distance(word, candidate); distance < best_distance) {
      best_distance = distance;
      best = candidate;
    }
  return best;
}

/// @brief "a", "b", "c": names as a list for a sentence.
inline std::string quoted(const std::vector<std::string>& names) {
  std::string text;
  for (const std::string& name : names) text += (text.empty() ? "\"" : ", \"") + name + "\"";
  return text.empty() ? "none" : text;
}

}  // namespace htl
