// SPDX-License-Identifier: Apache-2.0
/// @file random_stream.hpp
/// @brief Random numbers by position, so that parallel loops draw the same ones whatever the number of threads.
#pragma once

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/Generator.h>

#include <cstdint>
#include <mutex>
#include <optional>

namespace htl::inline v0_1_0::detail {

/// @brief The i-th output of SplitMix64 (Steele, Lea and Flood 2014) for any i: one 64-bit draw of a generator becomes a whole tensor's noise.
struct RandomStream {
  uint64_t seed = 0;  ///< where the stream starts

  /// @brief 64 random bits for a position.
  uint64_t bits(uint64_t position) const {
    uint64_t state = seed + (position + 1) * 0x9E3779B97F4A7C15ULL;
    state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9ULL;
    state = (state ^ (state >> 27)) * 0x94D049BB133111EBULL;
    return state ^ (state >> 31);
  }
  /// @brief A uniform number in the open interval (0, 1), in steps of 2⁻⁵² from 2⁻⁵³.
  double uniform(uint64_t position) const { return (static_cast<double>(bits(position) >> 12) + 0.5) * 0x1p-52; }
};

/// @brief Takes one 64-bit number from a CPU generator (nothing = the default one).
/// @throws c10::Error if the generator is not a CPU one
inline RandomStream draw_stream(const std::optional<at::Generator>& generator) {
  auto* source = at::get_generator_or_default<at::CPUGeneratorImpl>(generator, at::detail::getDefaultCPUGenerator());
  const std::scoped_lock lock(source->mutex_);
  return {source->random64()};
}

}  // namespace htl::detail
