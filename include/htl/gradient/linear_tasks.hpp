// SPDX-License-Identifier: Apache-2.0
/// @file linear_tasks.hpp
/// @brief LinearTasks: the T gradients of a linear layer's weight as factors, their Gramian and their weighted sum in as few products as the shapes allow.
#pragma once

#include <htl/gradient/dense_kernels.hpp>
#include <htl/nn/linear_parts.hpp>

#include <ATen/ops/addmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>

#include <utility>
#include <vector>

namespace htl::inline v0_1_0::detail {

/// dW_t = δ_tᵀ x for T tasks: x [B, I] came in (in parts), δ_t [B, O] came back.
///
/// K_st = ⟨dW_s, dW_t⟩ = ⟨δ_s, x xᵀ δ_t⟩. The left form takes T products of B·O·I, and leaves the dW_t to be summed; the right one x xᵀ, T products of B·B·O,
/// and one product for the weighted sum. The cheaper one is taken: the right one for small batches.
struct LinearTasks {
  at::Tensor weight;               // [O, I]
  std::vector<at::Tensor> parts;   // x_p [B, I_p]; empty until a task came back
  std::vector<at::Tensor> deltas;  // [T] of [B, O]; undefined where a task does not reach the layer
  std::vector<at::Tensor> formed;  // [T] of [O, I], once the left form was taken

  void add(size_t task, LinearCapture& capture) {
    if (!capture.delta.defined()) return;
    at::Tensor& sum = deltas[task];
    sum = sum.defined() ? sum + capture.delta : std::move(capture.delta);
    capture.delta = at::Tensor();
    parts = capture.parts;
  }

  /// Forms all dW_t; undefined where a task does not reach the layer.
  const std::vector<at::Tensor>& form() {
    if (!formed.empty()) return formed;
    for (const at::Tensor& delta : deltas) formed.push_back(delta.defined() ? product(delta) : at::Tensor());
    return formed;
  }

  /// [T, T] float64.
  at::Tensor gramian() {
    if (parts.empty() || !is_small_batch()) return dense_products(form(), formed, weight);
    at::Tensor of_rows;  // in float64: what cancels in δ_sᵀ x xᵀ δ_t may be much larger than the result
    for (const at::Tensor& part : parts) {
      const at::Tensor x = part.to(at::kDouble);
      of_rows = of_rows.defined() ? at::addmm(of_rows, x, x.t()) : at::mm(x, x.t());
    }
    std::vector<at::Tensor> exact, pulled;
    at::Tensor like;
    for (const at::Tensor& delta : deltas) {
      exact.push_back(delta.defined() ? delta.to(at::kDouble) : delta);
      pulled.push_back(delta.defined() ? at::mm(of_rows, exact.back()) : delta);
      if (delta.defined()) like = exact.back();
    }
    const at::Tensor products = dense_products(exact, pulled, like);
    return (products + products.t()) * 0.5;  // the two orders differ by rounding
  }

  /// Σ_t weights[t] dW_t; undefined where no task reaches the layer.
  at::Tensor combine(const at::Tensor& weights) const {
    if (!formed.empty()) return combine_dense(formed, weights, weight);
    at::Tensor like;
    for (const at::Tensor& delta : deltas)
      if (delta.defined()) like = delta;
    return like.defined() ? product(combine_dense(deltas, weights, like)) : at::Tensor();
  }

 private:
  bool is_small_batch() const {
    const int64_t rows = parts.front().size(0), outputs = weight.size(0), inputs = weight.size(1), tasks = static_cast<int64_t>(deltas.size());
    const int64_t price = weight.scalar_type() == at::kDouble ? 1 : 2;  // of float64
    return price * rows * (inputs + tasks * outputs) < (tasks - 1) * inputs * outputs;
  }
  at::Tensor product(const at::Tensor& delta) const {
    at::Tensor result = at::empty(weight.sizes(), weight.options().requires_grad(false));
    int64_t column = 0;
    for (const at::Tensor& part : parts) {
      at::Tensor columns = columns_of(result, column, part.size(1));
      weight_gradient(columns, delta, part);
      column += part.size(1);
    }
    return result;
  }
};

}  // namespace htl::detail
