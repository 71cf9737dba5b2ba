// SPDX-License-Identifier: Apache-2.0
/// @file counter_random.hpp
/// @brief CounterRandom: random numbers as a pure function of (seed, stream, index), so that any row can be drawn alone, by any thread.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <numbers>

namespace htlnet {

/// @brief Philox4x32 with 10 rounds: 128 random bits for a 128-bit counter and a 64-bit key.
///
/// **Source.** Salmon, Moraes, Dror, Shaw, "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011.
inline std::array<uint32_t, 4> philox(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = uint64_t{0xD2511F53u} * counter[0], b = uint64_t{0xCD9E8D57u} * counter[2];
    counter = {static_cast<uint32_t>(b >> 32) ^ counter[1] ^ key[0], static_cast<uint32_t>(b), static_cast<uint32_t>(a >> 32) ^ counter[3] ^ key[1],
               static_cast<uint32_t>(a)};
    key = {key[0] + 0x9E3779B9u, key[1] + 0xBB67AE85u};
  }
  return counter;
}

/// @brief The draws of one (seed, stream, index), one after the other. Integers are exact everywhere; normal and exponential draws go through libm.
class CounterRandom {
 public:
  /// @brief The first draw of a stream's element.
  /// @param seed the data set's seed
  /// @param stream what is drawn: users, items, rows
  /// @param index which of them
  CounterRandom(uint64_t seed, uint32_t stream, uint64_t index)
      : key_{static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)},
        counter_{static_cast<uint32_t>(index), static_cast<uint32_t>(index >> 32), 0, stream} {}

  /// @brief Uniform on [0, 1), 53 bits.
  double uniform() {
    if (used_ == 0) block_ = philox(counter_, key_);
    const uint64_t bits = uint64_t{block_[used_]} << 32 | block_[used_ + 1];
    used_ = (used_ + 2) % 4;
    if (used_ == 0) ++counter_[2];
    return static_cast<double>(bits >> 11) * 0x1p-53;
  }
  /// @brief A whole number in [0, bound).
  int32_t below(int32_t bound) { return static_cast<int32_t>(uniform() * bound); }
  /// @brief Exponential with mean 1.
  double exponential() { return -std::log(1.0 - uniform()); }
  /// @brief Standard normal (Box and Muller; the sine is not used, so every draw costs two uniforms).
  double normal() {
    const double radius = std::sqrt(2.0 * exponential());
    return radius * std::cos(2.0 * std::numbers::pi * uniform());
  }

 private:
  std::array<uint32_t, 2> key_;
  std::array<uint32_t, 4> counter_;
  std::array<uint32_t, 4> block_{};
  size_t used_ = 0;
};

}  // namespace htlnet
