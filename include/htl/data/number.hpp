// SPDX-License-Identifier: Apache-2.0
/// @file number.hpp
/// @brief Numbers from text: exact, independent of the locale, without allocation.
#pragma once

#include <array>
#include <bit>
#include <charconv>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>
#include <system_error>

namespace htl::inline v0_1_0 {

/// @brief The text without blanks and tabs at either end.
inline std::string_view trimmed(std::string_view text) noexcept {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
  while (!text.empty() && (text.back() == ' ' || text.back() == '\t')) text.remove_suffix(1);
  return text;
}

/// @brief Reads a finite number: "17", "-0.5", "+2e3", blanks around it allowed. Correctly rounded.
///
/// Up to 15 digits without an exponent are read by one exact division (both sides are exact doubles); the rest by std::from_chars.
/// @param text the whole text must be the number
/// @param value written on success only
/// @return whether the text was a number
inline bool parse_number(std::string_view text, double& value) noexcept {
  static constexpr std::array<double, 16> powers = {1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15};
  text = trimmed(text);
  const char* at = text.data();
  const char* const end = at + text.size();
  const bool negative = at != end && *at == '-';
  if (at != end && (*at == '-' || *at == '+')) ++at;
  const char* const unsigned_part = at;
  const auto is_digit = [](char c) { return static_cast<unsigned char>(c - '0') < 10; };
  uint64_t mantissa = 0;
  for (; at != end && is_digit(*at); ++at) mantissa = mantissa * 10 + static_cast<uint64_t>(*at - '0');
  std::ptrdiff_t digits = at - unsigned_part;
  std::ptrdiff_t scale = 0;
  if (at != end && *at == '.') {
    const char* const fraction = ++at;
    for (; at != end && is_digit(*at); ++at) mantissa = mantissa * 10 + static_cast<uint64_t>(*at - '0');
    scale = at - fraction;
    digits += scale;
  }
  if (digits == 0) return false;
  if (at == end && digits <= 15) {
    const double magnitude = static_cast<double>(mantissa) / powers[static_cast<size_t>(scale)];
    value = negative ? -magnitude : magnitude;
    return true;
  }
  double magnitude = 0.0;
  const auto [stop, error] = std::from_chars(unsigned_part, end, magnitude);
  if (error != std::errc() || stop != end || !std::isfinite(magnitude)) return false;
  value = negative ? -magnitude : magnitude;
  return true;
}

/// @brief parse_number() for a text after which 16 bytes may be read, as in a reader's block: up to 15 bare digits without a loop over them.
/// @param text the whole text must be the number
/// @param value written on success only
/// @return whether the text was a number
inline bool parse_padded_number(std::string_view text, double& value) noexcept {
  // Eight bytes, the first n of them digits: those n as a number, by three multiplications that join neighbours (little-endian machines).
  const auto digits = [](const char* from, size_t n, uint64_t& number) {
    uint64_t word = 0;
    std::memcpy(&word, from, 8);
    word = (word << (8 * (8 - n))) | ((uint64_t{0x3030303030303030u} >> 1) >> (8 * n - 1));  // zeros before them
    const uint64_t other = ((word & 0xF0F0F0F0F0F0F0F0u) ^ 0x3030303030303030u) | (((word + 0x0606060606060606u) & 0xF0F0F0F0F0F0F0F0u) ^ 0x3030303030303030u);
    word -= 0x3030303030303030u;
    word = word * 10 + (word >> 8);
    number = ((word & 0x000000FF000000FFu) * 0x000F424000000064u + ((word >> 16) & 0x000000FF000000FFu) * 0x0000271000000001u) >> 32;
    return other == 0;
  };
  if constexpr (std::endian::native == std::endian::little) {
    const size_t size = text.size();
    uint64_t high = 0, low = 0;
    if (size - 1 < 8) {
      if (digits(text.data(), size, high)) {
        value = static_cast<double>(static_cast<int64_t>(high));
        return true;
      }
    } else if (size - 9 < 7 && digits(text.data(), size - 8, high) && digits(text.data() + size - 8, 8, low)) {
      value = static_cast<double>(static_cast<int64_t>(high * 100000000 + low));
      return true;
    }
  }
  return parse_number(text, value);
}

/// @brief Reads a whole number; blanks around it and a sign allowed.
/// @param text the whole text must be the number
/// @param value written on success only
/// @return whether the text was a whole number in the range of int64
inline bool parse_integer(std::string_view text, int64_t& value) noexcept {
  text = trimmed(text);
  if (text.size() > 1 && text[0] == '+' && text[1] != '-') text.remove_prefix(1);
  int64_t number = 0;
  const auto [stop, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || stop != text.data() + text.size()) return false;
  value = number;
  return true;
}

/// @brief Whether a text where a number belongs stands for "no value": empty, or nan, na, n/a, null, none in any case.
inline bool is_missing(std::string_view text) noexcept {
  static constexpr std::array<std::string_view, 6> words = {"", "nan", "na", "n/a", "null", "none"};
  if (!text.empty() && static_cast<unsigned char>(text.front() - '0') < 10) return false;
  text = trimmed(text);
  for (const std::string_view word : words) {
    if (text.size() != word.size()) continue;
    bool same = true;
    for (size_t i = 0; i < word.size(); ++i) {
      const char c = text[i] >= 'A' && text[i] <= 'Z' ? static_cast<char>(text[i] - 'A' + 'a') : text[i];
      same = same && c == word[i];
    }
    if (same) return true;
  }
  return false;
}

}  // namespace htl
