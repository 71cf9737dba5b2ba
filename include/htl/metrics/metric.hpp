// SPDX-License-Identifier: Apache-2.0
/// @file metric.hpp
/// @brief Metric: what an accumulator offers; and the one way in which all of them read a batch.
///
/// Accumulators add batches from any device and sum in float64 on the CPU. `add` copies its arguments there: ONE POINT OF SYNCHRONISATION per call on
/// CUDA, which belongs to evaluation, never to a training step. A row without a label (mask false) or of weight 0 is not read at all, its prediction included.
/// A weight counts as that many copies of its row: every metric with whole weights equals the metric of the repeated rows. NaN as a value means "not defined
/// for this data", and each metric says when.
#pragma once

#include <htl/task/label.hpp>

#include <cmath>
#include <compare>
#include <concepts>
#include <string_view>

namespace htl::inline v0_1_0 {

/// @brief An accumulator over batches: `add(prediction, label)`, `value()`, `merge(other)`; a copyable value, in any order of batches the same result.
///
/// `add` takes a plain label as `{values}`, with mask and weight as `{values, mask, weight}`.
template <class M>
concept Metric = std::copy_constructible<M> && requires(M& metric, const M& other, const at::Tensor& prediction, const Label& label) {
  metric.add(prediction, label);
  { other.value() } -> std::convertible_to<double>;
  metric.merge(other);
};

namespace detail {

/// A column [B] on the CPU in one element type, read row by row; an undefined one reads as a constant.
template <class T>
class Column {
 public:
  Column(std::string_view who, std::string_view what, const at::Tensor& tensor, int64_t rows, T missing) : missing_(missing) {
    if (!tensor.defined()) return;
    check_shape(who, what, tensor, {rows});
    held_ = tensor.detach().to(at::kCPU, c10::CppTypeToScalarType<T>::value).contiguous();
    data_ = held_.template const_data_ptr<T>();
  }
  T operator[](int64_t row) const { return data_ != nullptr ? data_[row] : missing_; }

 private:
  at::Tensor held_;
  const T* data_ = nullptr;
  T missing_;
};

/// A column [B] of integers: groups, segments.
inline Column<int64_t> integer_column(std::string_view who, std::string_view what, const at::Tensor& tensor, int64_t rows) {
  HTL_CHECK_TYPE(tensor.defined() && !tensor.is_floating_point() && !tensor.is_complex(), who, ": expected integer ", what, ", got ",
                 tensor.defined() ? c10::toString(tensor.scalar_type()) : "an undefined tensor");
  return {who, what, tensor, rows, 0};
}

/// The checks of a batch's label that every metric shares. Rows are B = label.value.size(0).
class ObservedRows {
 public:
  ObservedRows(std::string_view who, const Label& label)
      : who_(who),
        rows_(checked_rows(who, label)),
        value_(who, "labels", label.value, rows_, 0.0),
        mask_(who, "the mask", checked_mask(who, label.mask), rows_, true),
        weight_(who, "weights", label.weight, rows_, 1.0) {}

  int64_t rows() const { return rows_; }
  /// Calls visit(row, label, weight) for each row that has a label and a weight above 0.
  template <class Visit>
  void for_each(Visit&& visit) const {
    for (int64_t row = 0; row < rows_; ++row) {
      if (!mask_[row]) continue;
      const double weight = weight_[row], value = value_[row];
      HTL_CHECK(weight >= 0.0 && std::isfinite(weight), who_, ": expected finite weights ≥ 0, got ", weight, " in row ", row, " of the batch");
      if (weight == 0.0) continue;
      HTL_CHECK(std::isfinite(value), who_, ": expected finite labels, got ", value, " in row ", row, " of the batch; mask rows without a label");
      visit(row, value, weight);
    }
  }

 private:
  static int64_t checked_rows(std::string_view who, const Label& label) {
    check_shape(who, "labels", label.value, {-1});
    return label.value.size(0);
  }
  static const at::Tensor& checked_mask(std::string_view who, const at::Tensor& mask) {
    HTL_CHECK_TYPE(!mask.defined() || mask.scalar_type() == at::kBool, who, ": expected a bool mask, got ", mask.scalar_type(),
                   "; a floating-point factor per row is a weight");
    return mask;
  }
  std::string_view who_;
  int64_t rows_;
  Column<double> value_;
  Column<bool> mask_;
  Column<double> weight_;
};

inline void check_finite_prediction(std::string_view who, double prediction, int64_t row) {
  HTL_CHECK(std::isfinite(prediction), who, ": expected finite predictions, got ", prediction, " in row ", row,
            " of the batch; the model has diverged or was fed a value that is not finite");
}
inline void check_binary_label(std::string_view who, double value, int64_t row) {
  HTL_CHECK(value == 0.0 || value == 1.0, who, ": expected labels 0 or 1, got ", value, " in row ", row, " of the batch");
}

/// Calls visit(row, prediction, label, weight) for each observed row of a batch of one number per row.
template <class Visit>
void for_each_observed(std::string_view who, const at::Tensor& prediction, const Label& label, Visit&& visit) {
  const ObservedRows observed(who, label);
  const Column<double> predictions(who, "predictions", (check_shape(who, "predictions", prediction, {observed.rows()}), prediction), observed.rows(), 0.0);
  observed.for_each([&](int64_t row, double value, double weight) {
    check_finite_prediction(who, predictions[row], row);
    visit(row, predictions[row], value, weight);
  });
}

/// A score with the weight of its row; the sign of the weight is the binary label. Sorting by both makes every sum independent of the order of rows.
struct ScoredRow {
  double score;
  double signed_weight;
  friend auto operator<=>(const ScoredRow&, const ScoredRow&) = default;
};

/// The Mann-Whitney statistic of rows sorted by score: positives' and negatives' weight, and the weighted count of pairs in the right order, ties ½.
struct PairCount {
  double positive = 0.0, negative = 0.0, ordered = 0.0;
  bool defined() const { return positive > 0.0 && negative > 0.0; }
  double auc() const { return ordered / (positive * negative); }
};

template <class Iterator>
PairCount count_pairs(Iterator row, Iterator end) {
  PairCount pairs;
  while (row != end) {
    const double score = row->score;
    double positive = 0.0, negative = 0.0;
    for (; row != end && row->score == score; ++row) (row->signed_weight > 0.0 ? positive : negative) += std::abs(row->signed_weight);
    pairs.ordered += positive * (pairs.negative + 0.5 * negative);
    pairs.positive += positive;
    pairs.negative += negative;
  }
  return pairs;
}

}  // namespace detail
}  // namespace htl
