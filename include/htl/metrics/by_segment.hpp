// SPDX-License-Identifier: Apache-2.0
/// @file by_segment.hpp
/// @brief BySegment: any metric for each segment of the rows apart: by tab, by country, by how often a user was seen.
/// Not in the umbrella: include it where it is used.
#pragma once

#include <htl/metrics/metric.hpp>

#include <ATen/ops/tensor.h>

#include <map>
#include <utility>
#include <vector>

namespace htl::inline v0_1_0 {

/// @brief One accumulator a segment: whether a model that is right on average is right for each of them.
///
///     htl::BySegment<htl::Calibration> calibration;
///     calibration.add(predictions["click"], labels["click"], tab);
///     for (const auto& [segment, of] : calibration.segments()) std::printf("tab %d: %.3f\n", static_cast<int>(segment), of.ratio());
///
/// **Device.** see metric.hpp. **Cost.** that of the metric, and a selection of rows for each segment of a batch: for some hundred segments, not for users
/// (GroupedAuc).
/// @tparam M a Metric
template <Metric M>
class BySegment {
 public:
  /// @brief A metric with its options, copied for every segment.
  explicit BySegment(M empty = M{}) : empty_(std::move(empty)) {}
  /// @brief Adds a batch.
  /// @param prediction [B] or [B, K] as the metric takes them
  /// @param label with mask and weight
  /// @param segment [B] integers
  /// @throws what the metric throws; c10::ValueError on a wrong shape; c10::TypeError unless segment holds integers
  void add(const at::Tensor& prediction, const Label& label, const at::Tensor& segment) {
    check_shape("htl::BySegment", "labels", label.value, {-1});
    const int64_t count = label.value.size(0);
    HTL_CHECK(prediction.defined() && prediction.dim() >= 1 && prediction.size(0) == count, "htl::BySegment: expected predictions of ", count,
              " rows, got shape ", shape_of(prediction));
    for (const at::Tensor& part : {label.mask, label.weight})
      if (part.defined()) check_shape("htl::BySegment", "mask and weight", part, {count});
    const detail::Column<int64_t> segments = detail::integer_column("htl::BySegment", "segments", segment, count);
    std::map<int64_t, std::vector<int64_t>> rows;
    for (int64_t row = 0; row < count; ++row) rows[segments[row]].push_back(row);
    const at::Tensor predictions = prediction.detach().to(at::kCPU);
    const Label labels = label.to(at::kCPU);
    BySegment batch(empty_);  // so that a batch is added whole or not at all
    for (const auto& [number, of_segment] : rows) {
      const at::Tensor index = at::tensor(of_segment, at::kLong);
      batch.segments_.try_emplace(number, empty_).first->second.add(predictions.index_select(0, index), labels.index_select(index));
    }
    merge(batch);
  }
  /// @brief Adds what another accumulator has seen.
  void merge(const BySegment& other) {
    for (const auto& [number, metric] : other.segments_) segments_.try_emplace(number, empty_).first->second.merge(metric);
  }
  /// @brief The metric of each segment, by rising number.
  const std::map<int64_t, M>& segments() const { return segments_; }

 private:
  M empty_;
  std::map<int64_t, M> segments_;
};

}  // namespace htl
