// SPDX-License-Identifier: Apache-2.0
/// @file clip.hpp
/// @brief Gradient clipping by one norm over row gradients and dense parameters together.
#pragma once

#include <htl/embedding/row_tables.hpp>
#include <htl/optim/fused_operators.hpp>

#include <ATen/Parallel.h>
#include <ATen/ops/scalar_tensor.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/where.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

namespace htl::inline v0_1_0 {

namespace detail {

/// @brief All gradients of a step.
struct StepGradients {
  std::vector<at::Tensor> counted;  // what the norm is of
  std::vector<at::Tensor> along;    // the same numbers again, for another reader: scaled but not counted
};

/// @brief What is clipped.
inline StepGradients step_gradients(const RowTables& tables, const std::vector<at::Tensor>& parameters) {
  StepGradients gradients;
  std::vector<at::Tensor>& counted = gradients.counted;
  const auto add = [&](const at::Tensor& gradient, const std::string& owner) {
    HTL_CHECK(gradient.layout() == at::kStrided, "htl::clip_grad_norm: ", owner, " has a sparse gradient; clip row tables through their RowTable");
    HTL_CHECK(counted.empty() || gradient.device() == counted.front().device(), "htl::clip_grad_norm: expected all gradients on one device, got ",
              counted.front().device(), " and ", gradient.device(), " (", owner, ")");
    counted.push_back(gradient);
  };
  for (const RowTable& table : tables) {
    if (!table.gradient().defined() || table.was_zeroed()) continue;
    const std::string owner = "table \"" + table.name() + "\"";
    const at::Tensor grad = table.coo_gradient() ? table.weight().grad() : at::Tensor();
    if (grad.defined() && !grad.is_sparse()) {  // it holds more than rows: somebody else's dense gradient too
      add(grad, owner);
      gradients.along.push_back(table.gradient().values);
    } else {
      add(table.gradient().values, owner);
      if (grad.defined()) gradients.along.push_back(grad._values());
    }
  }
  for (size_t i = 0; i < parameters.size(); ++i) {
    HTL_CHECK(parameters[i].defined(), "htl::clip_grad_norm: parameter ", i, " is undefined");
    if (parameters[i].grad().defined()) add(parameters[i].grad(), c10::str("parameter ", i));
  }
  return gradients;
}

/// Elements of one partial sum; fixed, so that the norm doesn't depend on the number of threads.
inline constexpr int64_t kNormPiece = 16384;

/// @brief A piece of a float32 or float64 tensor in CPU memory.
struct NormPiece {
  void* data;
  int64_t size;
  bool is_double;
};

/// @brief The gradients cut into pieces; false when one of them isn't contiguous float32 or float64 memory on the CPU.
inline bool cut_into_pieces(const std::vector<at::Tensor>& gradients, std::vector<NormPiece>& pieces) {
  for (const at::Tensor& gradient : gradients) {
    const bool is_double = gradient.scalar_type() == at::kDouble;
    if (!gradient.is_cpu() || !gradient.is_non_overlapping_and_dense() || !(is_double || gradient.scalar_type() == at::kFloat)) return false;
    char* const data = static_cast<char*>(gradient.mutable_data_ptr());
    const int64_t width = is_double ? 8 : 4;
    for (int64_t begin = 0; begin < gradient.numel(); begin += kNormPiece) {
      pieces.push_back({data + begin * width, std::min(kNormPiece, gradient.numel() - begin), is_double});
    }
  }
  return true;
}

/// @brief Σ x² in float64, in eight interleaved sums that vectorise.
template <class T>
double square_sum(const T* x, int64_t size) {
  double sums[8] = {};
  int64_t i = 0;
  for (; i + 8 <= size; i += 8) {
    for (int64_t j = 0; j < 8; ++j) sums[j] += static_cast<double>(x[i + j]) * static_cast<double>(x[i + j]);
  }
  for (; i < size; ++i) sums[i % 8] += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  return ((sums[0] + sums[1]) + (sums[2] + sums[3])) + ((sums[4] + sums[5]) + (sums[6] + sums[7]));
}

/// @brief √Σ x² over all pieces.
inline double norm_of(const std::vector<NormPiece>& pieces) {
  std::vector<double> sums(pieces.size());
  at::parallel_for(0, static_cast<int64_t>(pieces.size()), 4, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const NormPiece& piece = pieces[static_cast<size_t>(i)];
      sums[static_cast<size_t>(i)] =
          piece.is_double ? square_sum(static_cast<const double*>(piece.data), piece.size) : square_sum(static_cast<const float*>(piece.data), piece.size);
    }
  });
  double total = 0;
  for (const double sum : sums) total += sum;
  return std::sqrt(total);
}

/// @brief x *= factor in every piece.
inline void scale_pieces(const std::vector<NormPiece>& pieces, double factor) {
  at::parallel_for(0, static_cast<int64_t>(pieces.size()), 4, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const NormPiece& piece = pieces[static_cast<size_t>(i)];
      if (piece.is_double) {
        double* const x = static_cast<double*>(piece.data);
        for (int64_t j = 0; j < piece.size; ++j) x[j] *= factor;
      } else {
        float* const x = static_cast<float*>(piece.data);
        const float narrow = static_cast<float>(factor);
        for (int64_t j = 0; j < piece.size; ++j) x[j] *= narrow;
      }
    }
  });
}

/// @brief The norm by ATen operators on any device.
inline at::Tensor norm_by_operators(const std::vector<at::Tensor>& gradients) { return at::stack(foreach_norm(gradients)).square_().sum().sqrt_(); }

}  // namespace detail

/// @brief The Euclidean norm of all gradients of a step, over row gradients and dense parameters together.
/// @param tables tables, or modules that own them; those without a row gradient count nothing
/// @param parameters dense parameters; those without a gradient count nothing
/// @return float64 scalar on the gradients' device; summed in float64 in a fixed order on the CPU; no synchronisation. 0 without any gradient.
/// @throws c10::ValueError when a gradient is sparse or they lie on several devices
inline at::Tensor grad_norm(const RowTables& tables, const std::vector<at::Tensor>& parameters) {
  const c10::NoGradGuard no_grad;
  const std::vector<at::Tensor> gradients = detail::step_gradients(tables, parameters).counted;
  std::vector<detail::NormPiece> pieces;
  if (detail::cut_into_pieces(gradients, pieces)) return at::scalar_tensor(detail::norm_of(pieces), at::kDouble);
  return detail::norm_by_operators(gradients);
}

/// @brief Scales all gradients of a step by `min(1, max_norm / (norm + 1e-6))`, one norm over row gradients and dense parameters together.
///
/// The same as `torch::nn::utils::clip_grad_norm_` on the dense gradients; a table that also hands its gradient to `.grad()` (RowTable::coo_gradient) counts
/// once and has both scaled, so clip it as a table and leave its weight out of `parameters`. Call it after htl::backward and before the optimizers' step().
/// A norm that isn't finite makes the gradients NaN or zero, as there: look at what is returned.
/// @param tables tables, or modules that own them
/// @param parameters dense parameters
/// @param max_norm the largest norm that passes, > 0; infinity only measures
/// @return the norm before clipping, as grad_norm(). No synchronisation; cost: one pass over the gradients, a second one where they are clipped.
/// @throws c10::ValueError when max_norm is not positive, a gradient is sparse or they lie on several devices
inline at::Tensor clip_grad_norm(const RowTables& tables, const std::vector<at::Tensor>& parameters, double max_norm) {
  HTL_CHECK(max_norm > 0, "htl::clip_grad_norm: expected max_norm > 0, got ", max_norm);
  if (std::isinf(max_norm)) return grad_norm(tables, parameters);
  const c10::NoGradGuard no_grad;
  detail::StepGradients gradients = detail::step_gradients(tables, parameters);
  std::vector<detail::NormPiece> pieces, along;
  if (detail::cut_into_pieces(gradients.counted, pieces) && detail::cut_into_pieces(gradients.along, along)) {
    const double norm = detail::norm_of(pieces), factor = max_norm / (norm + 1e-6);
    if (!(factor >= 1)) {
      detail::scale_pieces(pieces, factor);
      detail::scale_pieces(along, factor);
    }
    return at::scalar_tensor(norm, at::kDouble);
  }
  at::Tensor norm = detail::norm_by_operators(gradients.counted);
  const at::Tensor factor = norm.add(1e-6).reciprocal_().mul_(max_norm).clamp_max_(1);
  gradients.counted.insert(gradients.counted.end(), gradients.along.begin(), gradients.along.end());
  std::vector<std::pair<at::ScalarType, std::vector<at::Tensor>>> by_type;
  for (const at::Tensor& gradient : gradients.counted) {
    const auto same = std::find_if(by_type.begin(), by_type.end(), [&](const auto& entry) { return entry.first == gradient.scalar_type(); });
    (same == by_type.end() ? by_type.emplace_back(gradient.scalar_type(), std::vector<at::Tensor>{}) : *same).second.push_back(gradient);
  }
  for (const auto& [type, same] : by_type) detail::foreach_mul_(same, factor.to(type));
  return norm;
}

}  // namespace htl
