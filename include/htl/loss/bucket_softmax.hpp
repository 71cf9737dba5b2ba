// SPDX-License-Identifier: Apache-2.0
/// @file bucket_softmax.hpp
/// @brief BucketSoftmax: a number as one of K buckets, predicted as the buckets' mean.
/// Not in the umbrella: include it where it is used.
#pragma once

#include <htl/loss/detail/exponentials.hpp>
#include <htl/loss/detail/label_statistics.hpp>
#include <htl/loss/one_pass.hpp>

#include <ATen/ops/bucketize.h>
#include <ATen/ops/cross_entropy_loss.h>

#include <string>
#include <utility>
#include <vector>

namespace htl::inline v0_1_0 {

/// @brief Choices and statistics of BucketSoftmax.
struct BucketSoftmaxOptions {
  /// K
  int64_t buckets = 20;
  /// K − 1 ascending edges; bucket b holds the labels up to edge b. Empty: fitted() takes quantiles of the training labels.
  std::vector<double> edges = {};
  /// K numbers that the buckets stand for. Empty: fitted() takes the means of the training labels in each bucket.
  std::vector<double> mids = {};
  /// Whether the edges come from fitted(), which makes them anew when it is called again; false: they were given, and stay.
  bool fitted_edges = false;
  /// The same of the mids.
  bool fitted_mids = false;
};

/// @brief l = log Σ_k e^{z_k} − z_b for K logits and the bucket b of the label.
///
/// Width K. Labels: any finite number, in their own unit; NaN gives NaN. dl/dz_k = softmax(z)_k − [k = b]. The prediction is Σ_k mid_k·softmax(z)_k in the
/// label's unit. fitted() makes edges between distinct labels, so that buckets hold about equal counts, and each mid the mean of its labels (of an empty
/// bucket: its middle); given edges and mids stay. O(B·K). On other devices than the CPU edges and mids are copied there in each call, which synchronises.
struct BucketSoftmax {
  /// @brief With its options.
  /// @throws c10::ValueError for fewer than 2 buckets, edges or mids of another count, or edges that are not ascending
  explicit BucketSoftmax(BucketSoftmaxOptions choices = {}) : options(std::move(choices)) {
    HTL_CHECK(options.buckets >= 2, "htl::BucketSoftmax: expected at least 2 buckets, got ", options.buckets);
    const size_t count = static_cast<size_t>(options.buckets);
    HTL_CHECK(options.edges.empty() || options.edges.size() == count - 1, "htl::BucketSoftmax: expected ", count - 1, " edges between ", count,
              " buckets, got ", options.edges.size());
    HTL_CHECK(options.mids.empty() || options.mids.size() == count, "htl::BucketSoftmax: expected ", count, " mids, got ", options.mids.size());
    detail::check_ascending("htl::BucketSoftmax", "edges", options.edges, true);
    for (const double mid : options.mids) HTL_CHECK(std::isfinite(mid), "htl::BucketSoftmax: expected finite mids, got ", mid);
  }
  /// What it was made with, and its statistics.
  BucketSoftmaxOptions options;

  /// The label's own unit.
  static constexpr bool in_label_unit = true;
  /// @brief "bucket_softmax"
  std::string name() const { return "bucket_softmax"; }
  /// @brief K
  int64_t output_width() const { return options.buckets; }
  /// @brief buckets, edges and mids where they are there, and which of these were fitted
  Options parameters() const {
    Options result = {{"buckets", options.buckets}};
    detail::add_fitted(result, "edges", options.edges, options.fitted_edges);
    detail::add_fitted(result, "mids", options.mids, options.fitted_mids);
    return result;
  }
  /// @brief Whether edges and mids are there.
  bool is_fitted() const { return !options.edges.empty() && !options.mids.empty(); }
  /// @brief Regression tasks.
  bool fits(TaskKind kind) const { return kind == TaskKind::regression; }

  /// @brief A copy with the edges and mids that were not given.
  /// @throws c10::ValueError without rows, for labels that are not finite, or fewer distinct labels than buckets
  BucketSoftmax fitted(const Label& label, const Named<at::Tensor>&) const {
    BucketSoftmaxOptions changed = options;
    const bool edges_stay = detail::are_given(changed.edges, changed.fitted_edges), mids_stay = detail::are_given(changed.mids, changed.fitted_mids);
    if (edges_stay && mids_stay) return *this;
    std::vector<double> labels = detail::column_numbers("htl::BucketSoftmax", "label", label.value);
    std::sort(labels.begin(), labels.end());
    if (!edges_stay) {
      changed.edges = detail::equal_count_edges(labels, options.buckets);
      HTL_CHECK(static_cast<int64_t>(changed.edges.size()) == options.buckets - 1, "htl::BucketSoftmax: expected at least ", options.buckets,
                " distinct labels for as many buckets, got ", changed.edges.size() + 1, "; take fewer buckets");
    }
    if (!mids_stay) changed.mids = detail::bucket_means(labels, changed.edges);
    return BucketSoftmax(std::move(changed));
  }

  /// @brief [B] from logits [B, K] and labels [B].
  /// @throws c10::ValueError on other shapes; c10::Error if there are no edges
  at::Tensor operator()(const at::Tensor& logits, const at::Tensor& labels) const {
    check_shape("htl::BucketSoftmax", "logits", logits, {-1, options.buckets});
    check_shape("htl::BucketSoftmax", "labels", labels, {logits.size(0)});
    return at::cross_entropy_loss(logits, buckets(labels), {}, at::Reduction::None).masked_fill(labels.isnan(), std::numeric_limits<double>::quiet_NaN());
  }
  /// @brief [B] of a task's output.
  at::Tensor per_row(const LossInput& input) const { return (*this)(input.output, input.label); }
  /// @brief Σ share·l in one pass.
  at::Tensor reduced(const LossInput& input, const at::Tensor& share) const {
    check(options.edges);
    return one_pass(*this, input, input.label, share);
  }
  /// @brief Σ_k mid_k·softmax(z)_k [B], in the label's unit.
  at::Tensor predict(const at::Tensor& output, const Named<at::Tensor>&) const {
    check(options.mids);
    check_shape("htl::BucketSoftmax", "logits", output, {-1, options.buckets});
    return output.softmax(1).mul(detail::list_like(options.mids, output).to(output.scalar_type())).sum(1);  // no matrix product: autocast would narrow it
  }
  /// @brief [B] int64: the buckets of labels.
  at::Tensor buckets(const at::Tensor& labels) const {
    check(options.edges);
    return at::bucketize(labels.detach().to(at::kDouble), detail::list_like(options.edges, labels));
  }

  /// @brief One row in fp64 from its label.
  double row(const double* output, const double* columns, double* slope) const {
    const size_t count = static_cast<size_t>(options.buckets), wanted = detail::bucket_of(options.edges, *columns);
    if (std::isnan(*columns)) {
      std::fill(slope, slope + count, *columns);
      return *columns;
    }
    const double top = detail::top_of_all(output, count);
    for (size_t k = 0; k < count; ++k) slope[k] = output[k] - top;
    detail::exp_all(slope, count);
    const double own = std::exchange(slope[wanted], 0.0), others = detail::sum_all(slope, count), inverse = 1.0 / (others + own);
    for (size_t k = 0; k < count; ++k) slope[k] *= inverse;
    slope[wanted] = -others * inverse;
    if (!(own > 1e-280)) return (top - output[wanted]) + std::log(others);
    const double odds = others / own, whole = 1.0 + odds;
    return std::log(whole) + (odds - (whole - 1.0)) / whole;  // log(1 + odds) with what rounding took from the sum
  }

 private:
  static void check(const std::vector<double>& statistics) {
    HTL_CHECK_STATE(!statistics.empty(), "htl::BucketSoftmax: its edges or mids are not there; call tasks.fitted(training_labels), or give them");
  }
};

}  // namespace htl
