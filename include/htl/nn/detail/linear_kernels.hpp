// SPDX-License-Identifier: Apache-2.0
/// @file linear_kernels.hpp
/// @brief What stands around the matrix products of linear_parts: bias, ReLU and dropout forward, their gradients backward, one pass each.
#pragma once

#include <htl/nn/detail/random_stream.hpp>
#include <htl/nn/detail/row_chunks.hpp>
#include <htl/nn/detail/row_loops.hpp>
#include <htl/task/tensor_operators.hpp>

#include <ATen/Dispatch.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/threshold_backward.h>
#include <ATen/ops/zeros.h>

#include <utility>

namespace htl::inline v0_1_0::detail {

/// @brief Columns of a matrix; the matrix itself where they are all.
inline at::Tensor columns_of(const at::Tensor& matrix, int64_t first, int64_t count) {
  return count == matrix.size(1) ? matrix : matrix.narrow(1, first, count);
}

/// @brief Whether the layer has so few outputs that plain loops over rows beat a matrix product, whose start costs more than its work.
inline bool has_few_outputs(const at::Tensor& out) { return has_cpu_loops(out) && out.size(1) <= 4; }

/// @brief The matrix with its rows' elements next to each other.
inline at::Tensor with_dense_rows(const at::Tensor& matrix) { return matrix.stride(1) == 1 ? matrix : matrix.contiguous(); }

/// @brief out = x Wᵀ, or out += x Wᵀ, row by row; out [B, O] contiguous.
inline void multiply_by_rows(at::Tensor& out, const at::Tensor& part, const at::Tensor& block, bool adds) {
  const at::Tensor x = with_dense_rows(part), w = with_dense_rows(block);
  const int64_t width = x.size(1), outputs = out.size(1);
  AT_DISPATCH_FLOATING_TYPES(out.scalar_type(), "htl_multiply_by_rows", [&] {
    const scalar_t *const from = x.const_data_ptr<scalar_t>(), *const weight = w.const_data_ptr<scalar_t>();
    scalar_t* const to = out.data_ptr<scalar_t>();
    RowChunks(x.size(0), width * outputs).for_each([&](int64_t, int64_t first, int64_t end) {
      for (int64_t row = first; row < end; ++row) {
        for (int64_t o = 0; o < outputs; ++o) {
          const scalar_t product = dot(from + row * x.stride(0), weight + o * w.stride(0), width);
          scalar_t& y = to[row * outputs + o];
          y = adds ? y + product : product;
        }
      }
    });
  });
}

/// @brief out = Σ_p x_p W_pᵀ over blocks W_p [O, D_p].
inline void multiply_parts(at::Tensor& out, at::TensorList parts, at::TensorList blocks) {
  for (size_t p = 0; p < parts.size(); ++p) {
    if (has_few_outputs(out)) {
      multiply_by_rows(out, parts[p], blocks[p], p > 0);
    } else if (p == 0) {
      at::mm_out(out, parts[p], blocks[p].t());
    } else {
      at::addmm_out(out, out, parts[p], blocks[p].t());
    }
  }
}

/// @brief dW = gᵀ x [O, D] row by row, into `to`, whose rows are dense.
inline void weight_gradient_by_rows(at::Tensor& to, const at::Tensor& gradient, const at::Tensor& part) {
  const at::Tensor x = with_dense_rows(part), g = gradient.contiguous();
  const int64_t width = x.size(1), outputs = g.size(1);
  const RowChunks chunks(x.size(0), width * outputs);
  const at::Tensor partial_sums = at::zeros({chunks.count, outputs * width}, x.options());
  to.zero_();
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "htl_weight_gradient_by_rows", [&] {
    const scalar_t *const from = x.const_data_ptr<scalar_t>(), *const arriving = g.const_data_ptr<scalar_t>();
    scalar_t *const partial = partial_sums.data_ptr<scalar_t>(), *const total = to.data_ptr<scalar_t>();
    chunks.for_each([&](int64_t chunk, int64_t first, int64_t end) {
      for (int64_t row = first; row < end; ++row)
        for (int64_t o = 0; o < outputs; ++o) add_scaled(partial + (chunk * outputs + o) * width, arriving[row * outputs + o], from + row * x.stride(0), width);
    });
    for (int64_t chunk = 0; chunk < chunks.count; ++chunk)
      for (int64_t o = 0; o < outputs; ++o) add_row(total + o * to.stride(0), partial + (chunk * outputs + o) * width, width);
  });
}

/// @brief dx = g W [B, D], row by row.
inline at::Tensor input_gradient_by_rows(const at::Tensor& gradient, const at::Tensor& block) {
  const at::Tensor g = gradient.contiguous(), w = with_dense_rows(block);
  const int64_t width = w.size(1), outputs = g.size(1);
  at::Tensor result = at::empty({g.size(0), width}, g.options());
  AT_DISPATCH_FLOATING_TYPES(g.scalar_type(), "htl_input_gradient_by_rows", [&] {
    const scalar_t *const arriving = g.const_data_ptr<scalar_t>(), *const weight = w.const_data_ptr<scalar_t>();
    scalar_t* const leaving = result.data_ptr<scalar_t>();
    RowChunks(g.size(0), width * outputs).for_each([&](int64_t, int64_t first, int64_t end) {
      for (int64_t row = first; row < end; ++row) {
        set_scaled(leaving + row * width, arriving[row * outputs], weight, width);
        for (int64_t o = 1; o < outputs; ++o) add_scaled(leaving + row * width, arriving[row * outputs + o], weight + o * w.stride(0), width);
      }
    });
  });
  return result;
}

/// @brief dW = gᵀ x into `to`.
inline void weight_gradient(at::Tensor& to, const at::Tensor& gradient, const at::Tensor& part) {
  if (has_few_outputs(gradient)) {
    weight_gradient_by_rows(to, gradient, part);
  } else {
    at::mm_out(to, gradient.t(), part);
  }
}

/// @brief dx = g W.
inline at::Tensor input_gradient(const at::Tensor& gradient, const at::Tensor& block) {
  return has_few_outputs(gradient) ? input_gradient_by_rows(gradient, block) : at::mm(gradient, block);
}

/// @brief out ← dropout(act(out + bias)) in place.
inline void finish_linear(at::Tensor& out, const at::Tensor& bias, bool relu, double dropout, const std::optional<at::Generator>& generator) {
  if (!has_cpu_loops(out)) {
    if (bias.defined()) out.add_(bias);
    if (relu) out.relu_();
    if (dropout > 0.0) out.mul_(at::empty_like(out).bernoulli_(1.0 - dropout, generator)).mul_(1.0 / (1.0 - dropout));
    return;
  }
  if (!bias.defined() && !relu) return;
  const int64_t width = out.size(1);
  const RandomStream stream = dropout > 0.0 ? draw_stream(generator) : RandomStream{};
  const at::Tensor shift = bias.defined() ? bias.contiguous() : at::zeros({width}, out.options());
  AT_DISPATCH_FLOATING_TYPES(out.scalar_type(), "htl_finish_linear", [&] {
    scalar_t* const values = out.data_ptr<scalar_t>();
    const scalar_t* const add = shift.const_data_ptr<scalar_t>();
    const auto threshold = static_cast<uint64_t>(dropout * 0x1p32);
    const auto scale = static_cast<scalar_t>(1.0 / (1.0 - dropout));
    RowChunks(out.size(0), width).for_each([&](int64_t, int64_t first, int64_t end) {
      for (int64_t row = first; row < end; ++row) {
        scalar_t* const y = values + row * width;
        if (relu) {
          add_row_relu(y, add, width);
        } else {
          add_row(y, add, width);
        }
        if (threshold == 0) continue;
        const auto position = static_cast<uint64_t>(row * width);
        for (int64_t j = 0; j < width; ++j) y[j] = (stream.bits(position + static_cast<uint64_t>(j)) >> 32) < threshold ? scalar_t(0) : y[j] * scale;
      }
    });
  });
}

/// @brief The gradient before activation and dropout [B, O], contiguous, and its column sums [O] where asked.
/// @param gradient [B, O] of the result
/// @param out the result, whose sign is the mask; undefined = no activation
/// @param scale of what dropout kept
/// @param with_bias whether the column sums are needed
inline std::pair<at::Tensor, at::Tensor> start_linear_backward(const at::Tensor& gradient, const at::Tensor& out, double scale, bool with_bias) {
  if (!has_cpu_loops(gradient)) {
    at::Tensor inner = gradient;
    if (out.defined()) inner = at::threshold_backward(gradient, out, 0.0);
    if (scale != 1.0) inner = inner * scale;
    return {inner, with_bias ? inner.sum(0) : at::Tensor()};
  }
  if (!out.defined() && !with_bias) return {gradient, {}};
  const at::Tensor dense = gradient.contiguous();
  const int64_t width = dense.size(1);
  at::Tensor inner = out.defined() ? at::empty_like(dense) : dense;
  const RowChunks chunks(dense.size(0), width);
  at::Tensor sums = at::zeros({width}, dense.options());
  const at::Tensor partial_sums = at::zeros({chunks.count, width}, dense.options());
  AT_DISPATCH_FLOATING_TYPES(dense.scalar_type(), "htl_linear_backward", [&] {
    const scalar_t* const arriving = dense.const_data_ptr<scalar_t>();
    const scalar_t* const result = out.defined() ? out.const_data_ptr<scalar_t>() : nullptr;
    scalar_t* const leaving = out.defined() ? inner.data_ptr<scalar_t>() : nullptr;
    scalar_t* const partial = partial_sums.data_ptr<scalar_t>();
    scalar_t* const total = sums.data_ptr<scalar_t>();
    const auto factor = static_cast<scalar_t>(scale);
    chunks.for_each([&](int64_t chunk, int64_t first, int64_t end) {
      scalar_t* const sum = partial + chunk * width;
      for (int64_t row = first; row < end; ++row) {
        const scalar_t* const g = arriving + row * width;
        if (result) {
          relu_backward_row(leaving + row * width, sum, g, result + row * width, factor, width);
        } else {
          add_row(sum, g, width);
        }
      }
    });
    for (int64_t chunk = 0; chunk < chunks.count; ++chunk) add_row(total, partial + chunk * width, width);
  });
  return {inner, with_bias ? sums : at::Tensor()};
}

}  // namespace htl::detail
