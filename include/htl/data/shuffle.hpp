// SPDX-License-Identifier: Apache-2.0
/// @file shuffle.hpp
/// @brief CounterRandom and shuffled_rows: a permutation as a pure function of (seed, epoch).
#pragma once

#include <htl/task/check.hpp>

#include <cstdint>
#include <numeric>
#include <utility>
#include <vector>

namespace htl::inline v0_1_0 {

/// @brief Random numbers as a pure function of (key, counter): nothing to carry along, the same on every machine.
///
/// The counter is spread by an odd constant and mixed by two rounds of xor-shift and multiplication (a bijection of 64 bits for each key).
class CounterRandom {
 public:
  /// @brief The generator of a seed and a stream (an epoch, say).
  CounterRandom(uint64_t seed, uint64_t stream) : key_(mix(mix(seed + 0x9E3779B97F4A7C15u) ^ (stream * 0xD1B54A32D192ED03u + 0x8BB84B93962EACC9u))) {}
  /// @brief 64 random bits of a counter.
  uint64_t operator()(uint64_t counter) const { return mix(key_ + counter * 0x9E3779B97F4A7C15u); }
  /// @brief A number in [0, bound), uniform up to a bias of bound / 2^64.
  uint64_t below(uint64_t bound, uint64_t counter) const {
    __extension__ typedef unsigned __int128 Wide;
    return static_cast<uint64_t>((static_cast<Wide>((*this)(counter)) * bound) >> 64);
  }

 private:
  static uint64_t mix(uint64_t x) {
    x = (x ^ (x >> 32)) * 0xD6E8FEB86659FD93u;
    x = (x ^ (x >> 29)) * 0xCF1BBCDCB7A56463u;
    return x ^ (x >> 32);
  }
  uint64_t key_;
};

/// @brief The rows 0 … n − 1 in the order of an epoch (Fisher and Yates). O(n); the same on every machine.
inline std::vector<int64_t> shuffled_rows(int64_t n, uint64_t seed, int64_t epoch) {
  HTL_CHECK(n >= 0, "htl::shuffled_rows: expected a number of rows ≥ 0, got ", n);
  std::vector<int64_t> rows(static_cast<size_t>(n));
  std::iota(rows.begin(), rows.end(), int64_t{0});
  const CounterRandom random(seed, static_cast<uint64_t>(epoch));
  for (size_t i = rows.size(); i > 1; --i) std::swap(rows[i - 1], rows[random.below(i, i)]);
  return rows;
}

}  // namespace htl
