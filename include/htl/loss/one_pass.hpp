// SPDX-License-Identifier: Apache-2.0
/// @file one_pass.hpp
/// @brief one_pass: Σ share·l and its gradient in a single pass over the rows, for losses that give their arithmetic row by row.
#pragma once

#include <htl/task/task_loss.hpp>

#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <concepts>
#include <cstdint>
#include <vector>

namespace htl::inline v0_1_0 {

/// @brief A loss that knows its value and slope for one row, in fp64.
///
/// `row(output, target, slope)`: reads W numbers, writes the W derivatives, returns the value.
template <class L>
concept RowLoss = std::copy_constructible<L> && requires(const L& loss, const double* output, double target, double* slope) {
  { loss.row(output, target, slope) } -> std::same_as<double>;
};

namespace detail {

/// Rows that one thread works on at a time; fixed, so that sums do not depend on the number of threads.
inline constexpr int64_t kRowsPerChunk = 2048;

/// Calls body(chunk, begin, end) for each chunk of the rows.
template <class Body>
void for_row_chunks(int64_t rows, const Body& body) {
  const int64_t chunks = (rows + kRowsPerChunk - 1) / kRowsPerChunk;
  at::parallel_for(0, chunks, 1, [&](int64_t first, int64_t last) {
    for (int64_t chunk = first; chunk < last; ++chunk) body(chunk, chunk * kRowsPerChunk, std::min(rows, (chunk + 1) * kRowsPerChunk));
  });
}

/// The number of chunks of for_row_chunks().
inline size_t row_chunks(int64_t rows) { return static_cast<size_t>((rows + kRowsPerChunk - 1) / kRowsPerChunk); }

/// Fills slope with share·dl/doutput and value with Σ share·l. T, Y: element types of output and target.
template <class T, class Y, class L>
void weighted_rows(const L& loss, const at::Tensor& output, const at::Tensor& target, const at::Tensor& share, at::Tensor& slope, at::Tensor& value) {
  const int64_t rows = output.size(0), width = output.size(1);
  const T* out = output.const_data_ptr<T>();
  const Y* wanted = target.const_data_ptr<Y>();
  const T* part = share.const_data_ptr<T>();
  T* slopes = slope.mutable_data_ptr<T>();
  std::vector<double> sums(row_chunks(rows), 0.0);
  for_row_chunks(rows, [&](int64_t chunk, int64_t begin, int64_t end) {
    std::vector<double> buffer(static_cast<size_t>(2 * width));
    double* const x = buffer.data();
    double* const dx = x + width;
    double sum = 0.0;
    for (int64_t row = begin; row < end; ++row) {
      T* const row_slope = slopes + row * width;
      const double factor = static_cast<double>(part[row]);
      if (factor == 0.0) {
        std::fill(row_slope, row_slope + width, T(0));
        continue;
      }
      for (int64_t j = 0; j < width; ++j) x[j] = static_cast<double>(out[row * width + j]);
      sum += factor * loss.row(x, static_cast<double>(wanted[row]), dx);
      for (int64_t j = 0; j < width; ++j) row_slope[j] = static_cast<T>(factor * dx[j]);
    }
    sums[static_cast<size_t>(chunk)] = sum;
  });
  double total = 0.0;
  for (const double sum : sums) total += sum;
  *value.mutable_data_ptr<T>() = static_cast<T>(total);
}

/// The pass over contiguous tensors by their element types.
template <RowLoss L>
void reduce_rows(const void* erased, const at::Tensor& output, const at::Tensor& target, const at::Tensor& share, at::Tensor& slope, at::Tensor& value) {
  const L& loss = *static_cast<const L*>(erased);
  const bool single = output.scalar_type() == at::kFloat;
  if (target.scalar_type() == at::kLong) {
    single ? weighted_rows<float, int64_t>(loss, output, target, share, slope, value)
           : weighted_rows<double, int64_t>(loss, output, target, share, slope, value);
  } else {
    single ? weighted_rows<float, float>(loss, output, target, share, slope, value) : weighted_rows<double, double>(loss, output, target, share, slope, value);
  }
}

/// reduce_rows<L>.
using RowReduction = void (*)(const void* loss, const at::Tensor& output, const at::Tensor& target, const at::Tensor& share, at::Tensor& slope,
                              at::Tensor& value);

/// Σ share·l with its gradient computed on the way; backward is one multiplication. One node for all losses: a node a loss is what costs a compiler.
struct OnePass : torch::autograd::Function<OnePass> {
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& output, const at::Tensor& target, const at::Tensor& share,
                            RowReduction reduce, const void* loss) {
    const at::Tensor x = output.contiguous();
    at::Tensor slope = at::empty(x.sizes(), x.options()), value = at::empty({}, x.options());
    reduce(loss, x, target.contiguous(), share.contiguous(), slope, value);
    context->save_for_backward({slope});
    return value;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context, const torch::autograd::variable_list& gradients) {
    HTL_CHECK_STATE(!at::GradMode::is_enabled(),
                    "htl: a loss that HybridLoss reduced in one pass has no second derivative; "
                    "for create_graph, differentiate the loss's per_row() instead");
    return {context->get_saved_variables()[0].mul(gradients[0]), at::Tensor(), at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

}  // namespace detail

/// @brief Σ share·l as a scalar in the output's type: one pass in fp64 on the CPU, `per_row` elsewhere. Differentiable once in the output.
///
/// Sums run over fixed chunks: the same bits for any number of threads. O(B·W).
/// @param loss gives `row` and `per_row`
/// @param input float32 or float64 output [B, W], target [B] of the same type or int64
/// @param share [B] in the output's type; rows with 0 do not enter, whatever their output is
template <RowLoss L>
  requires TaskLoss<L> at::Tensor one_pass(const L& loss, const LossInput& input, const at::Tensor& share) {
    if (input.output.is_cpu()) return detail::OnePass::apply(input.output, input.target, share, &detail::reduce_rows<L>, static_cast<const void*>(&loss));
    return weighted_sum(loss.per_row(input), share);
  }

namespace detail {

/// A prediction of width 1 as a column: [B] stays, [B, 1] loses its second dimension.
inline at::Tensor column(std::string_view who, const at::Tensor& output, const at::Tensor& target) {
  HTL_CHECK(output.defined() && (output.dim() == 1 || (output.dim() == 2 && output.size(1) == 1)), who, ": expected an output of shape [B] or [B, 1], got ",
            shape_of(output));
  check_shape(who, "a target", target, {output.size(0)});
  return output.dim() == 2 ? output.squeeze(1) : output;
}

}  // namespace detail
}  // namespace htl
