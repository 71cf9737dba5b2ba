// SPDX-License-Identifier: Apache-2.0
/// @file gate_weights.hpp
/// @brief The softmax of gates, some of whose entries are dropped in training.
/// Not in the umbrella: it belongs to the headers that include it.
#pragma once

#include <htl/nn/detail/random_stream.hpp>
#include <htl/nn/detail/row_chunks.hpp>

#include <ATen/ops/empty.h>

#include <limits>
#include <optional>

namespace htl::inline v0_1_0::detail {

/// @brief [B, S, n] bool: entries that are dropped, each with probability p; where it would be all n of a gate, none is. On the CPU one draw of the generator.
template <class = void>
at::Tensor dropped_gates(at::IntArrayRef sizes, double p, const at::Device& device, const std::optional<at::Generator>& generator) {
  if (!device.is_cpu()) {
    const at::Tensor dropped = at::empty(sizes, at::TensorOptions(device)).bernoulli_(p, generator).to(at::kBool);
    return dropped.logical_and(dropped.all(2, /*keepdim=*/true).logical_not());
  }
  at::Tensor result = at::empty(sizes, at::kBool);
  bool* const dropped = result.data_ptr<bool>();
  const RandomStream stream = draw_stream(generator);
  const auto threshold = static_cast<uint64_t>(p * 0x1p32);
  const int64_t experts = sizes[2];
  RowChunks(sizes[0] * sizes[1], experts).for_each([&](int64_t, int64_t first, int64_t end) {
    for (int64_t gate = first; gate < end; ++gate) {
      bool all = true;
      for (int64_t i = gate * experts; i < (gate + 1) * experts; ++i) {
        dropped[i] = (stream.bits(static_cast<uint64_t>(i)) >> 32) < threshold;
        all = all && dropped[i];
      }
      for (int64_t i = gate * experts; all && i < (gate + 1) * experts; ++i) dropped[i] = false;
    }
  });
  return result;
}

/// @brief Logits [B, S·n] → weights [B, S·n], whose groups of n sum to 1; what is dropped has weight 0, and the rest is what a softmax of the rest gives.
inline at::Tensor gate_weights(const at::Tensor& logits, int64_t experts, double dropout, const std::optional<at::Generator>& generator) {
  at::Tensor scores = logits.reshape({logits.size(0), logits.size(1) / experts, experts});
  if (dropout > 0.0 && experts > 1)
    scores = scores.masked_fill(dropped_gates(scores.sizes(), dropout, logits.device(), generator), -std::numeric_limits<double>::infinity());
  return scores.softmax(2).reshape(logits.sizes());
}

}  // namespace htl::detail
