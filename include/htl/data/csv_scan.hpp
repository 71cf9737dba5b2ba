// SPDX-License-Identifier: Apache-2.0
/// @file csv_scan.hpp
/// @brief Finds the ends of fields in CSV text, 64 bytes at a time.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace htl::inline v0_1_0 {

/// @brief Which of 64 bytes are special, a bit each.
struct CsvMarks {
  uint64_t ends = 0;    ///< separators and line feeds
  uint64_t quotes = 0;  ///< quotes
  uint64_t zeros = 0;   ///< zero bytes, which no text holds
};

/// @brief Marks 64 bytes.
/// @param text 64 readable bytes
/// @param separator between fields
/// @param quote around fields; '\0' = none, then no byte is marked as one
inline CsvMarks mark_csv(const char* text, char separator, char quote) noexcept {
  CsvMarks marks;
#if defined(__SSE2__)
  const __m128i separators = _mm_set1_epi8(separator), feeds = _mm_set1_epi8('\n'), quotes = _mm_set1_epi8(quote), zero = _mm_setzero_si128();
  for (int part = 0; part < 4; ++part) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(text) + part);
    const auto mask = [part](__m128i found) { return static_cast<uint64_t>(static_cast<uint32_t>(_mm_movemask_epi8(found))) << (16 * part); };
    marks.ends |= mask(_mm_or_si128(_mm_cmpeq_epi8(bytes, separators), _mm_cmpeq_epi8(bytes, feeds)));
    marks.quotes |= mask(_mm_cmpeq_epi8(bytes, quotes));
    marks.zeros |= mask(_mm_cmpeq_epi8(bytes, zero));
  }
#else
  for (int i = 0; i < 64; ++i) {
    const uint64_t bit = uint64_t{1} << i;
    if (text[i] == separator || text[i] == '\n') marks.ends |= bit;
    if (text[i] == quote) marks.quotes |= bit;
    if (text[i] == '\0') marks.zeros |= bit;
  }
#endif
  if (quote == '\0') marks.quotes = 0;
  return marks;
}

/// @brief Bit i of the result: whether the number of set bits at or below i is odd; between an opening quote (included) and its closing one.
inline uint64_t odd_prefix(uint64_t bits) noexcept {
  for (int step = 1; step < 64; step *= 2) bits ^= bits << step;
  return bits;
}

/// @brief The state of a scan that crosses from one piece of text to the next.
struct CsvScan {
  bool inside = false;   ///< between an opening and a closing quote
  bool touched = false;  ///< a quote was seen in the current field

  /// @brief Writes 2·position + (the field holds a quote) for each field end outside quotes.
  /// @param marks of 64 bytes
  /// @param position of the first of them
  /// @param to room for 72 entries
  /// @return one past the last entry written
  uint32_t* write_ends(const CsvMarks& marks, uint32_t position, uint32_t* to) noexcept {
    uint64_t ends = marks.ends;
    if (marks.quotes == 0) {
      if (inside) return to;
      if (ends == 0) return to;
      const uint32_t first = touched ? 1 : 0;
      touched = false;
      const int count = std::popcount(ends);
      uint32_t* at = to;
      do {  // eight at a time, so that the loop's end is seldom mispredicted; what is written past the count is overwritten next
        for (int i = 0; i < 8; ++i, ends &= ends - 1) at[i] = 2 * (position + static_cast<uint32_t>(std::countr_zero(ends)));
        at += 8;
      } while (ends != 0);
      *to |= first;
      return to + count;
    }
    const uint64_t between = odd_prefix(marks.quotes) ^ (inside ? ~uint64_t{0} : 0);
    uint64_t quotes = marks.quotes;
    for (ends &= ~between; ends != 0; ends &= ends - 1) {
      const uint64_t below = (ends & (~ends + 1)) - 1;  // the bytes before this end
      touched = touched || (quotes & below) != 0;
      quotes &= ~below;
      *to++ = 2 * (position + static_cast<uint32_t>(std::countr_zero(ends))) + (touched ? 1 : 0);
      touched = false;
    }
    touched = touched || quotes != 0;
    inside = (between >> 63) != 0;
    return to;
  }
};

}  // namespace htl
