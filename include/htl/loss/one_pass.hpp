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
#include <array>
#include <cmath>
#include <concepts>
#include <cstdint>
#include <limits>
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

/// A number in type T, beyond its range the largest one. Without branches; NaN stays, by the order of the arguments.
template <class T>
T held(double number) {
  constexpr double most = std::numeric_limits<T>::max();
  return static_cast<T>(std::min(std::max(number, -most), most));
}

/// The tensors of a pass as arrays of element types T (output, share, slope) and Y (target), with any strides but the share's.
template <class T, class Y>
struct RowArrays {
  RowArrays(const at::Tensor& output, const at::Tensor& target, const at::Tensor& share, const at::Tensor& slope)
      : rows(output.size(0)),
        width(output.size(1)),
        columns(target.dim() == 2 ? target.size(1) : 1),
        outputs_(output.const_data_ptr<T>()),
        targets_(target.const_data_ptr<Y>()),
        shares_(share.const_data_ptr<T>()),
        slopes_(slope.mutable_data_ptr<T>()),
        output_strides_{output.stride(0), output.stride(1)},
        target_strides_{target.stride(0), target.dim() == 2 ? target.stride(1) : 0},
        slope_strides_{slope.stride(0), slope.stride(1)} {}
  double output(int64_t row, int64_t j) const { return static_cast<double>(outputs_[row * output_strides_[0] + j * output_strides_[1]]); }
  double target(int64_t row, int64_t column = 0) const { return static_cast<double>(targets_[row * target_strides_[0] + column * target_strides_[1]]); }
  double share(int64_t row) const { return static_cast<double>(shares_[row]); }
  /// Writes share·slope, and 0 where the share is 0, whatever the slope.
  void set_slope(int64_t row, int64_t j, double share, double slope) const {
    slopes_[row * slope_strides_[0] + j * slope_strides_[1]] = held<T>(kept(share * slope, share != 0.0));
  }
  int64_t rows, width, columns;

 private:
  const T* outputs_;
  const Y* targets_;
  const T* shares_;
  T* slopes_;
  std::array<int64_t, 2> output_strides_, target_strides_, slope_strides_;
};

/// Σ of body(begin, end) over the chunks of the rows, in their order.
template <class Body>
double sum_over_chunks(int64_t rows, const Body& body) {
  std::vector<double> sums(row_chunks(rows), 0.0);
  for_row_chunks(rows, [&](int64_t chunk, int64_t begin, int64_t end) { sums[static_cast<size_t>(chunk)] = body(begin, end); });
  double total = 0.0;
  for (const double sum : sums) total += sum;
  return total;
}

/// Writes share·dl/doutput, and gives Σ share·l: row by row.
template <class T, class Y, class L>
double weighted_rows(const L& loss, const RowArrays<T, Y>& arrays) {
  const auto row_of = [&](const double* output, const double* columns, double* slope) {
    if constexpr (ColumnRowLoss<L>) {
      return loss.row(output, columns, slope);
    } else {
      return loss.row(output, *columns, slope);
    }
  };
  const int64_t width = arrays.width, columns = arrays.columns;
  return sum_over_chunks(arrays.rows, [&](int64_t begin, int64_t end) {
    double sum = 0.0;
    if (width == 1 && columns == 1) {  // in registers, and without a branch on the share, which random masks would mispredict
      for (int64_t row = begin; row < end; ++row) {
        const double share = arrays.share(row), output = arrays.output(row, 0), target = arrays.target(row);
        double slope = 0.0;
        sum += kept(share * row_of(&output, &target, &slope), share != 0.0);
        arrays.set_slope(row, 0, share, slope);
      }
      return sum;
    }
    std::vector<double> buffer(static_cast<size_t>(2 * width + columns), 0.0);
    double *const x = buffer.data(), *const dx = x + width, *const of_row = dx + width;
    for (int64_t row = begin; row < end; ++row) {
      const double share = arrays.share(row);
      if (share != 0.0) {  // a branch here: rows of such losses are dear
        for (int64_t j = 0; j < width; ++j) x[j] = arrays.output(row, j);
        for (int64_t c = 0; c < columns; ++c) of_row[c] = arrays.target(row, c);
        sum += share * row_of(x, of_row, dx);
      }
      for (int64_t j = 0; j < width; ++j) arrays.set_slope(row, j, share, dx[j]);
    }
    return sum;
  });
}

/// Rows whose logistic functions, or whatever a loss forms of many numbers at once, are formed together.
inline constexpr int64_t kRowsPerBlock = 64;

/// The same for losses that do many rows at once.
template <class T, class Y, class L>
double weighted_blocks(const L& loss, const RowArrays<T, Y>& arrays) {
  const int64_t width = arrays.width;
  return sum_over_chunks(arrays.rows, [&](int64_t begin, int64_t end) {
    std::vector<double> buffer(static_cast<size_t>(2 * width * kRowsPerBlock));
    double *const x = buffer.data(), *const dx = x + width * kRowsPerBlock;
    double y[kRowsPerBlock], values[kRowsPerBlock], shares[kRowsPerBlock], sum = 0.0;
    for (int64_t first = begin; first < end; first += kRowsPerBlock) {
      const int64_t count = std::min(kRowsPerBlock, end - first);
      for (int64_t j = 0; j < width; ++j)
        for (int64_t i = 0; i < count; ++i) x[j * kRowsPerBlock + i] = arrays.output(first + i, j);
      for (int64_t i = 0; i < count; ++i) y[i] = arrays.target(first + i);
      for (int64_t i = 0; i < count; ++i) shares[i] = arrays.share(first + i);
      loss.rows(x, y, static_cast<size_t>(count), values, dx);
      for (int64_t i = 0; i < count; ++i) sum += kept(shares[i] * values[i], shares[i] != 0.0);
      for (int64_t j = 0; j < width; ++j)
        for (int64_t i = 0; i < count; ++i) arrays.set_slope(first + i, j, shares[i], dx[j * kRowsPerBlock + i]);
    }
    return sum;
  });
}

/// The same for losses that take logistic functions of their outputs, formed for blocks of rows. kWidth is W, where a compiler shall know it; else 0.
template <int64_t kWidth, class T, class Y, class L>
double weighted_logistic_rows(const L& loss, const RowArrays<T, Y>& arrays) {
  const int64_t width = kWidth > 0 ? kWidth : arrays.width, columns = arrays.columns;
  return sum_over_chunks(arrays.rows, [&](int64_t begin, int64_t end) {
    const int64_t numbers = kRowsPerBlock * width;
    std::vector<double> buffer(static_cast<size_t>(6 * numbers + width + columns));
    std::vector<Logistic> several(static_cast<size_t>(kWidth > 0 ? 0 : width));
    Logistic few[kWidth > 0 ? kWidth : 1];
    Logistic* const logistic = kWidth > 0 ? few : several.data();
    double *const x = buffer.data(), *const up = x + numbers, *const down = up + numbers, *const log_whole = down + numbers;
    double *const over = log_whole + numbers, *const under = over + numbers, *const dx = under + numbers, *const of_row = dx + width;
    double sum = 0.0;
    for (int64_t first = begin; first < end; first += kRowsPerBlock) {
      const int64_t count = std::min(kRowsPerBlock, end - first);
      for (int64_t j = 0; j < width; ++j)
        for (int64_t i = 0; i < count; ++i) x[i * width + j] = arrays.output(first + i, j);
      logistic_all(x, static_cast<size_t>(count * width), up, down, log_whole);
      for (int64_t i = 0; i < count * width; ++i) over[i] = log_whole[i] + positive_part(x[i]);
      for (int64_t i = 0; i < count * width; ++i) under[i] = log_whole[i] + positive_part(-x[i]);
      for (int64_t i = 0; i < count; ++i) {  // without a branch on the share, which random masks would mispredict
        const double share = arrays.share(first + i);
        for (int64_t j = i * width; j < (i + 1) * width; ++j) logistic[j - i * width] = {up[j], down[j], over[j], under[j]};
        for (int64_t c = 0; c < columns; ++c) of_row[c] = arrays.target(first + i, c);
        sum += kept(share * loss.row(logistic, x + i * width, of_row, dx), share != 0.0);
        for (int64_t j = 0; j < width; ++j) arrays.set_slope(first + i, j, share, dx[j]);
      }
    }
    return sum;
  });
}

/// The pass of a loss for element types T and Y.
template <class T, class Y, class L>
void pass_rows(const L& loss, const RowArrays<T, Y>& arrays, at::Tensor& value) {
  double total = 0.0;
  if constexpr (BlockRowLoss<L>) {
    total = weighted_blocks(loss, arrays);
  } else if constexpr (LogisticRowLoss<L>) {
    total = arrays.width == 1   ? weighted_logistic_rows<1>(loss, arrays)
            : arrays.width == 2 ? weighted_logistic_rows<2>(loss, arrays)
                                : weighted_logistic_rows<0>(loss, arrays);
  } else {
    total = weighted_rows(loss, arrays);
  }
  *value.mutable_data_ptr<T>() = static_cast<T>(total);
}

/// Throws where the tensors of a pass are not of the same rows, or the output not as wide as row() reads.
template <class L>
void check_rows(const L& loss, const at::Tensor& output, const at::Tensor& columns, const at::Tensor& share) {
  int64_t width;
  if constexpr (requires { loss.row_width(); }) {  // with the outputs of other tasks behind the task's own
    width = loss.row_width();
  } else {
    width = loss.output_width();
  }
  const bool fits = output.defined() && output.dim() == 2 && output.size(1) == width && columns.defined() && columns.dim() >= 1 && columns.dim() <= 2 &&
                    columns.size(0) == output.size(0) && share.defined() && share.dim() == 1 && share.size(0) == output.size(0);
  HTL_CHECK(fits, "htl::one_pass: the loss \"", loss.name(), "\" expected outputs [B, ", width, "], labels [B] and shares [B], got outputs ", shape_of(output),
            ", labels ", shape_of(columns), " and shares ", shape_of(share));
}

/// The pass by element types. Outputs and columns may have any strides, so that those of several tasks need no interleaving; share is contiguous.
template <class L>
void reduce_rows(const void* erased, const at::Tensor& output, const at::Tensor& target, const at::Tensor& share, at::Tensor& slope, at::Tensor& value) {
  const L& loss = *static_cast<const L*>(erased);
  const bool single = output.scalar_type() == at::kFloat;
  if (target.scalar_type() == at::kLong) {
    single ? pass_rows<float, int64_t>(loss, {output, target, share, slope}, value) : pass_rows<double, int64_t>(loss, {output, target, share, slope}, value);
  } else {
    single ? pass_rows<float, float>(loss, {output, target, share, slope}, value) : pass_rows<double, double>(loss, {output, target, share, slope}, value);
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
/// Sums run over fixed chunks: the same bits for any number of threads. A slope that float32 can't hold is held at its largest
/// number, 3.4e38; a value that it can't hold is infinite, as a plain conversion has it, and so is seen. O(B·W).
/// @param loss gives `row` and `per_row`
/// @param input float32 or float64 output [B, W], target [B] of the same type or int64
/// @param share [B] in the output's type; rows with 0 do not enter, whatever their output is
/// @throws c10::ValueError on other shapes
template <RowLoss L>
  requires TaskLoss<L> at::Tensor one_pass(const L& loss, const LossInput& input, const at::Tensor& share) {
    detail::check_rows(loss, input.output, input.target, share);
    if (input.output.is_cpu()) return detail::OnePass::apply(input.output, input.target, share, &detail::reduce_rows<L>, static_cast<const void*>(&loss));
    return weighted_sum(loss.per_row(input), share);
  }

/// @brief The same for a loss of several columns.
/// @param loss gives `row` and `per_row`
/// @param input float32 or float64 output [B, W]
/// @param columns [B] or [B, C] in the output's type
/// @param share [B] in the output's type; rows with 0 do not enter, whatever their output is
/// @throws c10::ValueError on other shapes
template <ColumnRowLoss L>
  requires TaskLoss<L> at::Tensor one_pass(const L& loss, const LossInput& input, const at::Tensor& columns, const at::Tensor& share) {
    detail::check_rows(loss, input.output, columns, share);
    if (input.output.is_cpu()) return detail::OnePass::apply(input.output, columns, share, &detail::reduce_rows<L>, static_cast<const void*>(&loss));
    return weighted_sum(loss.per_row(input), share);
  }

namespace detail {

/// A prediction of width 1 as a column: [B] stays, [B, 1] loses its second dimension.
inline at::Tensor column(std::string_view who, const at::Tensor& output) {
  HTL_CHECK(output.defined() && (output.dim() == 1 || (output.dim() == 2 && output.size(1) == 1)), who, ": expected an output of shape [B] or [B, 1], got ",
            shape_of(output));
  return output.dim() == 2 ? output.squeeze(1) : output;
}
/// The same beside its target [B].
inline at::Tensor column(std::string_view who, const at::Tensor& output, const at::Tensor& target) {
  at::Tensor result = column(who, output);
  check_shape(who, "a target", target, {output.size(0)});
  return result;
}

}  // namespace detail
}  // namespace htl
