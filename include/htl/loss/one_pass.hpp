// SPDX-License-Identifier: Apache-2.0
/// @file one_pass.hpp
/// @brief one_pass: Σ share·l and its gradient in a single pass over the rows, for losses that give their arithmetic row by row.
#pragma once

#include <htl/loss/detail/exponentials.hpp>
#include <htl/task/task_loss.hpp>

#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
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

/// @brief The same for a loss that needs several numbers of a row: its label, an event, statistics of its duration.
///
/// `row(output, columns, slope)`: as above, with the C numbers of that row that one_pass() was given.
template <class L>
concept ColumnRowLoss = std::copy_constructible<L> && requires(const L& loss, const double* output, const double* columns, double* slope) {
  { loss.row(output, columns, slope) } -> std::same_as<double>;
};

/// @brief A RowLoss or ColumnRowLoss that can also take its outputs' logistic functions, which one_pass() then forms for many rows at once.
///
/// `row(logistic, output, columns, slope)`: as above, with σ(x), σ(−x), softplus(x) and softplus(−x) of each of the W outputs; columns holds the target
/// where there are no others.
template <class L>
concept LogisticRowLoss = requires(const L& loss, const detail::Logistic* logistic, const double* output, const double* columns, double* slope) {
  { loss.row(logistic, output, columns, slope) } -> std::same_as<double>;
};

/// @brief A RowLoss or ColumnRowLoss of one column that does many rows at once, because its functions are cheaper so.
///
/// `rows(outputs, targets, count, values, slopes)`: as `row`, for count ≤ 64 rows; output j of row i and its slope stand at [64·j + i].
template <class L>
concept BlockRowLoss = requires(const L& loss, const double* numbers, size_t count, double* results) {
  loss.rows(numbers, numbers, count, results, results);
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
  const int64_t rows = output.size(0), width = output.size(1), columns = target.dim() == 2 ? target.size(1) : 1;
  const T* out = output.const_data_ptr<T>();
  const Y* wanted = target.const_data_ptr<Y>();
  const int64_t by_row = target.stride(0), by_column = target.dim() == 2 ? target.stride(1) : 0;
  const T* part = share.const_data_ptr<T>();
  T* slopes = slope.mutable_data_ptr<T>();
  const int64_t out_row = output.stride(0), out_column = output.stride(1), slope_row = slope.stride(0), slope_column = slope.stride(1);
  std::vector<double> sums(row_chunks(rows), 0.0);
  for_row_chunks(rows, [&](int64_t chunk, int64_t begin, int64_t end) {
    std::vector<double> buffer(static_cast<size_t>(2 * width + columns));
    double* const x = buffer.data();
    double* const dx = x + width;
    [[maybe_unused]] double* const of_row = dx + width;
    double sum = 0.0;
    if (width == 1 && columns == 1) {  // in registers, and without a branch on the share, which random masks would mispredict
      for (int64_t row = begin; row < end; ++row) {
        const double factor = static_cast<double>(part[row]), of_output = static_cast<double>(out[row]), of_target = static_cast<double>(wanted[row]);
        const bool counts = factor != 0.0;
        double of_slope = 0.0, of_value = 0.0;
        if constexpr (ColumnRowLoss<L>) {
          of_value = loss.row(&of_output, &of_target, &of_slope);
        } else {
          of_value = loss.row(&of_output, of_target, &of_slope);
        }
        sum += kept(factor * of_value, counts);
        slopes[row] = static_cast<T>(kept(factor * of_slope, counts));
      }
      sums[static_cast<size_t>(chunk)] = sum;
      return;
    }
    for (int64_t row = begin; row < end; ++row) {
      T* const row_slope = slopes + row * slope_row;
      const double factor = static_cast<double>(part[row]);
      if (factor == 0.0) {
        for (int64_t j = 0; j < width; ++j) row_slope[j * slope_column] = T(0);
        continue;
      }
      for (int64_t j = 0; j < width; ++j) x[j] = static_cast<double>(out[row * out_row + j * out_column]);
      if constexpr (ColumnRowLoss<L>) {
        for (int64_t c = 0; c < columns; ++c) of_row[c] = static_cast<double>(wanted[row * by_row + c * by_column]);
        sum += factor * loss.row(x, of_row, dx);
      } else {
        sum += factor * loss.row(x, static_cast<double>(wanted[row * by_row]), dx);
      }
      for (int64_t j = 0; j < width; ++j) row_slope[j * slope_column] = static_cast<T>(factor * dx[j]);
    }
    sums[static_cast<size_t>(chunk)] = sum;
  });
  double total = 0.0;
  for (const double sum : sums) total += sum;
  *value.mutable_data_ptr<T>() = static_cast<T>(total);
}

/// Rows whose logistic functions, or whatever a loss forms of many numbers at once, are formed together.
inline constexpr int64_t kRowsPerBlock = 64;

/// The same for losses that do many rows at once.
template <class T, class Y, class L>
void weighted_blocks(const L& loss, const at::Tensor& output, const at::Tensor& target, const at::Tensor& share, at::Tensor& slope, at::Tensor& value) {
  const int64_t rows = output.size(0), width = output.size(1), by_row = target.stride(0);
  const T* out = output.const_data_ptr<T>();
  const Y* wanted = target.const_data_ptr<Y>();
  const T* part = share.const_data_ptr<T>();
  T* slopes = slope.mutable_data_ptr<T>();
  const int64_t out_row = output.stride(0), out_column = output.stride(1), slope_row = slope.stride(0), slope_column = slope.stride(1);
  std::vector<double> sums(row_chunks(rows), 0.0);
  for_row_chunks(rows, [&](int64_t chunk, int64_t begin, int64_t end) {
    std::vector<double> buffer(static_cast<size_t>(2 * width * kRowsPerBlock));
    double *const x = buffer.data(), *const dx = x + width * kRowsPerBlock;
    double y[kRowsPerBlock], values[kRowsPerBlock], factors[kRowsPerBlock], sum = 0.0;
    for (int64_t first = begin; first < end; first += kRowsPerBlock) {
      const int64_t count = std::min(kRowsPerBlock, end - first);
      for (int64_t j = 0; j < width; ++j)
        for (int64_t i = 0; i < count; ++i) x[j * kRowsPerBlock + i] = static_cast<double>(out[(first + i) * out_row + j * out_column]);
      for (int64_t i = 0; i < count; ++i) y[i] = static_cast<double>(wanted[(first + i) * by_row]);
      loss.rows(x, y, static_cast<size_t>(count), values, dx);
      for (int64_t i = 0; i < count; ++i) factors[i] = static_cast<double>(part[first + i]);
      for (int64_t i = 0; i < count; ++i) sum += kept(factors[i] * values[i], factors[i] != 0.0);
      for (int64_t j = 0; j < width; ++j)
        for (int64_t i = 0; i < count; ++i)
          slopes[(first + i) * slope_row + j * slope_column] = static_cast<T>(kept(factors[i] * dx[j * kRowsPerBlock + i], factors[i] != 0.0));
    }
    sums[static_cast<size_t>(chunk)] = sum;
  });
  double total = 0.0;
  for (const double sum : sums) total += sum;
  *value.mutable_data_ptr<T>() = static_cast<T>(total);
}

/// The same for losses that take logistic functions of their outputs, formed for blocks of rows. kWidth is W, where a compiler shall know it; else 0.
template <int64_t kWidth, class T, class Y, class L>
void weighted_logistic_rows(const L& loss, const at::Tensor& output, const at::Tensor& target, const at::Tensor& share, at::Tensor& slope, at::Tensor& value) {
  const int64_t rows = output.size(0), width = kWidth > 0 ? kWidth : output.size(1), columns = target.dim() == 2 ? target.size(1) : 1;
  const T* out = output.const_data_ptr<T>();
  const Y* wanted = target.const_data_ptr<Y>();
  const int64_t by_row = target.stride(0), by_column = target.dim() == 2 ? target.stride(1) : 0;
  const T* part = share.const_data_ptr<T>();
  T* slopes = slope.mutable_data_ptr<T>();
  const int64_t out_row = output.stride(0), out_column = output.stride(1), slope_row = slope.stride(0), slope_column = slope.stride(1);
  std::vector<double> sums(row_chunks(rows), 0.0);
  for_row_chunks(rows, [&](int64_t chunk, int64_t begin, int64_t end) {
    const size_t numbers = static_cast<size_t>(kRowsPerBlock * width);
    std::vector<double> buffer(6 * numbers + static_cast<size_t>(width + columns));
    std::vector<Logistic> several(static_cast<size_t>(kWidth > 0 ? 0 : width));
    Logistic few[kWidth > 0 ? kWidth : 1];
    Logistic* const logistic = kWidth > 0 ? few : several.data();
    double *const x = buffer.data(), *const up = x + numbers, *const down = up + numbers, *const log_whole = down + numbers;
    double *const over = log_whole + numbers, *const under = over + numbers, *const dx = under + numbers, *const of_row = dx + width;
    double sum = 0.0;
    for (int64_t first = begin; first < end; first += kRowsPerBlock) {
      const int64_t count = std::min(kRowsPerBlock, end - first);
      for (int64_t j = 0; j < width; ++j)
        for (int64_t i = 0; i < count; ++i) x[i * width + j] = static_cast<double>(out[(first + i) * out_row + j * out_column]);
      logistic_all(x, static_cast<size_t>(count * width), up, down, log_whole);
      for (int64_t i = 0; i < count * width; ++i) over[i] = log_whole[i] + positive_part(x[i]);
      for (int64_t i = 0; i < count * width; ++i) under[i] = log_whole[i] + positive_part(-x[i]);
      for (int64_t i = 0; i < count; ++i) {  // without a branch on the share, which random masks would mispredict
        const double factor = static_cast<double>(part[first + i]);
        const bool counts = factor != 0.0;
        for (int64_t j = i * width; j < (i + 1) * width; ++j) logistic[j - i * width] = {up[j], down[j], over[j], under[j]};
        for (int64_t c = 0; c < columns; ++c) of_row[c] = static_cast<double>(wanted[(first + i) * by_row + c * by_column]);
        const double of_value = loss.row(logistic, x + i * width, of_row, dx);
        sum += kept(factor * of_value, counts);
        T* const row_slope = slopes + (first + i) * slope_row;
        for (int64_t j = 0; j < width; ++j) row_slope[j * slope_column] = static_cast<T>(kept(factor * dx[j], counts));
      }
    }
    sums[static_cast<size_t>(chunk)] = sum;
  });
  double total = 0.0;
  for (const double sum : sums) total += sum;
  *value.mutable_data_ptr<T>() = static_cast<T>(total);
}

/// The pass of a loss for element types T and Y.
template <class T, class Y, class L>
void pass_rows(const L& loss, const at::Tensor& output, const at::Tensor& target, const at::Tensor& share, at::Tensor& slope, at::Tensor& value) {
  if constexpr (BlockRowLoss<L>) {
    weighted_blocks<T, Y>(loss, output, target, share, slope, value);
  } else if constexpr (LogisticRowLoss<L>) {
    const int64_t width = output.size(1);
    width == 1   ? weighted_logistic_rows<1, T, Y>(loss, output, target, share, slope, value)
    : width == 2 ? weighted_logistic_rows<2, T, Y>(loss, output, target, share, slope, value)
                 : weighted_logistic_rows<0, T, Y>(loss, output, target, share, slope, value);
  } else {
    weighted_rows<T, Y>(loss, output, target, share, slope, value);
  }
}

/// The pass by element types. Outputs and columns may have any strides, so that those of several tasks need no interleaving; share is contiguous.
template <class L>
void reduce_rows(const void* erased, const at::Tensor& output, const at::Tensor& target, const at::Tensor& share, at::Tensor& slope, at::Tensor& value) {
  const L& loss = *static_cast<const L*>(erased);
  const bool single = output.scalar_type() == at::kFloat;
  if (target.scalar_type() == at::kLong) {
    single ? pass_rows<float, int64_t>(loss, output, target, share, slope, value) : pass_rows<double, int64_t>(loss, output, target, share, slope, value);
  } else {
    single ? pass_rows<float, float>(loss, output, target, share, slope, value) : pass_rows<double, double>(loss, output, target, share, slope, value);
  }
}

/// reduce_rows<L>.
using RowReduction = void (*)(const void* loss, const at::Tensor& output, const at::Tensor& target, const at::Tensor& share, at::Tensor& slope,
                              at::Tensor& value);

/// Σ share·l with its gradient computed on the way; backward is one multiplication. One node for all losses: a node a loss is what costs a compiler.
struct OnePass : torch::autograd::Function<OnePass> {
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& output, const at::Tensor& target, const at::Tensor& share,
                            RowReduction reduce, const void* loss) {
    const at::Tensor x = output.is_non_overlapping_and_dense() ? output : output.contiguous();  // columns of several tasks come one after the other
    at::Tensor slope = at::empty_like(x), value = at::empty({}, x.options());
    reduce(loss, x, target, share.contiguous(), slope, value);
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

/// @brief The same for a loss of several columns.
/// @param loss gives `row` and `per_row`
/// @param input float32 or float64 output [B, W]
/// @param columns [B] or [B, C] in the output's type
/// @param share [B] in the output's type; rows with 0 do not enter, whatever their output is
template <ColumnRowLoss L>
  requires TaskLoss<L> at::Tensor one_pass(const L& loss, const LossInput& input, const at::Tensor& columns, const at::Tensor& share) {
    if (input.output.is_cpu()) return detail::OnePass::apply(input.output, columns, share, &detail::reduce_rows<L>, static_cast<const void*>(&loss));
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
