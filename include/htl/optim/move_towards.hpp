// SPDX-License-Identifier: Apache-2.0
/// @file move_towards.hpp
/// @brief Moving many tensors a part of the way towards others: a step of an average of dense parameters.
#pragma once

#include <htl/optim/fused_operators.hpp>

#include <ATen/Parallel.h>

#include <algorithm>
#include <cstdint>
#include <vector>

namespace htl::inline v0_1_0::detail {

/// @brief `x += part·(target − x)` for lists of tensors, by one parallel loop; the same bits for any number of threads.
/// @return false, with nothing done, unless all are float32 or float64 memory on the CPU and each has its target's type
inline bool move_towards_by_loop(const std::vector<at::Tensor>& tensors, const std::vector<at::Tensor>& targets, double part) {
  struct Piece {
    void* x;
    const void* target;
    int64_t size;
    bool is_double;
  };
  constexpr int64_t kPiece = 16384;
  std::vector<Piece> pieces;
  for (size_t i = 0; i < tensors.size(); ++i) {
    const at::Tensor &x = tensors[i], &target = targets[i];
    const bool is_double = x.scalar_type() == at::kDouble;
    if (!x.is_cpu() || !target.is_cpu() || !x.is_contiguous() || !target.is_contiguous() || x.scalar_type() != target.scalar_type()) return false;
    if (!is_double && x.scalar_type() != at::kFloat) return false;
    const int64_t width = is_double ? 8 : 4;
    char* const to = static_cast<char*>(x.mutable_data_ptr());
    const char* const from = static_cast<const char*>(target.const_data_ptr());
    for (int64_t begin = 0; begin < x.numel(); begin += kPiece) {
      pieces.push_back({to + begin * width, from + begin * width, std::min(kPiece, x.numel() - begin), is_double});
    }
  }
  const auto move = [part]<class T>(T* x, const T* target, int64_t size) {
    const T narrow = static_cast<T>(part);
    for (int64_t j = 0; j < size; ++j) x[j] += narrow * (target[j] - x[j]);
  };
  at::parallel_for(0, static_cast<int64_t>(pieces.size()), 4, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const Piece& piece = pieces[static_cast<size_t>(i)];
      if (piece.is_double) {
        move(static_cast<double*>(piece.x), static_cast<const double*>(piece.target), piece.size);
      } else {
        move(static_cast<float*>(piece.x), static_cast<const float*>(piece.target), piece.size);
      }
    }
  });
  return true;
}

/// @brief The same by operators, for any devices and element types: few kernels for many tensors, no synchronisation.
/// @param tensors what moves
/// @param targets of the same shapes
/// @param part a scalar tensor on any device
inline void move_towards(const std::vector<at::Tensor>& tensors, const std::vector<at::Tensor>& targets, const at::Tensor& part) {
  std::vector<bool> moved(tensors.size(), false);
  for (const at::Tensor& lead : tensors) {  // one list for each device and element type
    std::vector<at::Tensor> same, their_targets;
    for (size_t i = 0; i < tensors.size(); ++i) {
      if (moved[i] || tensors[i].device() != lead.device() || tensors[i].scalar_type() != lead.scalar_type()) continue;
      same.push_back(tensors[i]);
      their_targets.push_back(targets[i].to(lead.scalar_type()));
      moved[i] = true;
    }
    if (!same.empty()) foreach_move_(same, their_targets, part.to(lead.options()));
  }
}

}  // namespace htl::detail
