// SPDX-License-Identifier: Apache-2.0
/// @file tpm.hpp
/// @brief TPM: watch time by a binary tree of intervals, each node deciding between its halves.
/// Not in the umbrella: include it where it is used.
#pragma once

#include <htl/loss/detail/exponentials.hpp>
#include <htl/loss/detail/label_statistics.hpp>
#include <htl/loss/detail/special.hpp>
#include <htl/loss/one_pass.hpp>

#include <ATen/ops/bucketize.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/where.h>

#include <array>
#include <string>
#include <utility>
#include <vector>

namespace htl::inline v0_1_0 {

/// @brief Choices and statistics of TPM.
struct TPMOptions {
  /// k: the tree has 2^k leaves, at most 2^10.
  int64_t depth = 5;
  /// The factor of (E − t)².
  double value = 1.0;
  /// The factor of the predicted standard deviation.
  double deviation = 1e-4;
  /// The statistics: 2^k − 1 ascending edges between the leaves; leaf b holds the labels up to edge b. Empty: fitted() takes quantiles.
  std::vector<double> edges = {};
  /// The statistics: 2^k numbers that the leaves stand for. Empty: fitted() takes the means of the training labels in each leaf.
  std::vector<double> mids = {};
  /// Whether the edges come from fitted(), which makes them anew when it is called again; false: they were given, and stay.
  bool fitted_edges = false;
  /// The same of the mids.
  bool fitted_mids = false;
};

/// @brief l = 1/W Σ_{nodes on the way to t's leaf} BCE(z_node, goes left) + v·(E − t)² + d·√Var, with W = 2^k − 1 nodes.
///
/// σ(z_node) is the probability to go left. Nodes are the outputs in the order of levels: root 0, the children of node i are 2i + 1 and 2i + 2. With
/// P(leaf) the product along its way, E = Σ mid·P is the prediction, in the label's unit, and Var = Σ P·(mid − E)².
///
/// Width W. Labels: any finite number, in their own unit. Gradient into all nodes, through E and Var; √Var is held at 1e−15, with gradient 0 below; float32
/// rows lose its digits where one leaf has nearly all of P, `reduced` on the CPU works in fp64. O(B·2^k). On other devices than the CPU
/// edges and mids are copied there in each call, which synchronises.
///
/// Source: Lin et al., Tree based Progressive Regression Model for Watch-Time Prediction in Short-video Recommendation, KDD 2023. Public code of it
/// takes the variance from the squared mean and the cross-entropy of logits from probabilities; here both are as the paper has them.
struct TPM {
  /// @brief With its options.
  /// @throws c10::ValueError for options out of their range, edges or mids of another count, or edges that are not ascending
  explicit TPM(TPMOptions choices = {}) : options(std::move(choices)) {
    HTL_CHECK(options.depth >= 1 && options.depth <= kMostDepth, kWho, ": expected a depth of 1 to ", kMostDepth, ", got ", options.depth);
    HTL_CHECK(options.value >= 0.0 && std::isfinite(options.value), kWho, ": expected a finite factor ≥ 0 of the value, got ", options.value);
    HTL_CHECK(options.deviation >= 0.0 && std::isfinite(options.deviation), kWho, ": expected a finite factor ≥ 0 of the deviation, got ", options.deviation);
    const size_t leaves = static_cast<size_t>(output_width()) + 1;
    HTL_CHECK(options.edges.empty() || options.edges.size() == leaves - 1, kWho, ": expected ", leaves - 1, " edges between ", leaves, " leaves, got ",
              options.edges.size());
    HTL_CHECK(options.mids.empty() || options.mids.size() == leaves, kWho, ": expected ", leaves, " mids, got ", options.mids.size());
    detail::check_ascending(kWho, "edges", options.edges, true);
    for (const double mid : options.mids) HTL_CHECK(std::isfinite(mid), kWho, ": expected finite mids, got ", mid);
  }
  /// What it was made with, and its statistics.
  TPMOptions options;

  /// The label's own unit.
  static constexpr bool in_label_unit = true;
  /// @brief "tpm"
  std::string name() const { return "tpm"; }
  /// @brief W = 2^k − 1
  int64_t output_width() const { return (int64_t{1} << options.depth) - 1; }
  /// @brief depth, value, deviation, edges and mids where they are there, and which of these were fitted
  Options parameters() const {
    Options result = {{"depth", options.depth}, {"value", options.value}, {"deviation", options.deviation}};
    detail::add_fitted(result, "edges", options.edges, options.fitted_edges);
    detail::add_fitted(result, "mids", options.mids, options.fitted_mids);
    return result;
  }
  /// @brief Whether edges and mids are there.
  bool is_fitted() const { return !options.edges.empty() && !options.mids.empty(); }
  /// @brief Regression tasks.
  bool fits(TaskKind kind) const { return kind == TaskKind::regression; }

  /// @brief A copy with the edges and mids that were not given.
  /// @throws c10::ValueError without rows, for labels that are not finite, or fewer distinct labels than leaves
  TPM fitted(const Label& label, const Named<at::Tensor>&) const {
    TPMOptions changed = options;
    const bool edges_stay = detail::are_given(changed.edges, changed.fitted_edges), mids_stay = detail::are_given(changed.mids, changed.fitted_mids);
    if (edges_stay && mids_stay) return *this;
    std::vector<double> labels = detail::column_numbers(kWho, "label", label.value);
    std::sort(labels.begin(), labels.end());
    if (!edges_stay) {
      changed.edges = detail::equal_count_edges(labels, output_width() + 1);
      HTL_CHECK(static_cast<int64_t>(changed.edges.size()) == output_width(), kWho, ": expected at least ", output_width() + 1,
                " distinct labels for as many leaves, got ", changed.edges.size() + 1, "; take a smaller depth");
    }
    if (!mids_stay) changed.mids = detail::bucket_means(labels, changed.edges);
    return TPM(std::move(changed));
  }

  /// @brief [B] from logits [B, W] and labels [B].
  /// @throws c10::ValueError on other shapes; c10::Error if it is not fitted
  at::Tensor operator()(const at::Tensor& logits, const at::Tensor& labels) const {
    check_shape(kWho, "labels", labels, {logits.size(0)});
    const at::Tensor chance = leaves(logits), mid = mids_like(chance), mean = chance.mul(mid).sum(1), label = labels.to(logits.scalar_type());
    const at::Tensor leaf = at::bucketize(labels.detach().to(at::kDouble), detail::list_like(options.edges, logits)).unsqueeze(1);
    at::Tensor way;
    for (int64_t level = 0; level < options.depth; ++level) {
      const at::Tensor node = leaf.bitwise_right_shift(options.depth - level).add((int64_t{1} << level) - 1);
      const at::Tensor right = leaf.bitwise_right_shift(options.depth - level - 1).bitwise_and(1);
      const at::Tensor z = logits.gather(1, node);
      const at::Tensor step = detail::softplus(at::where(right.gt(0), z, z.neg())).squeeze(1);
      way = way.defined() ? way.add(step) : step;
    }
    const at::Tensor spread = chance.mul(mid.sub(mean.unsqueeze(1)).square()).sum(1).clamp_min(kLeastVariance).sqrt();
    return way.div(static_cast<double>(output_width())).add(mean.sub(label).square(), options.value).add(spread, options.deviation);
  }
  /// @brief [B] of a task's output.
  at::Tensor per_row(const LossInput& input) const { return (*this)(input.output, input.label); }
  /// @brief Σ share·l in one pass.
  at::Tensor reduced(const LossInput& input, const at::Tensor& share) const {
    check_fitted();
    return one_pass(*this, input, input.label, share);
  }
  /// @brief E [B], in the label's unit.
  at::Tensor predict(const at::Tensor& output, const Named<at::Tensor>&) const {
    const at::Tensor chance = leaves(output);
    return chance.mul(mids_like(chance)).sum(1);
  }
  /// @brief The variance [B] of what logits [B, W] predict, in the square of the label's unit.
  at::Tensor variance(const at::Tensor& logits) const {
    const at::Tensor chance = leaves(logits), mid = mids_like(chance);
    return chance.mul(mid.sub(chance.mul(mid).sum(1, true)).square()).sum(1);
  }
  /// @brief P [B, 2^k] of logits [B, W].
  /// @throws c10::Error if it is not fitted
  at::Tensor leaves(const at::Tensor& logits) const {
    check_fitted();
    check_shape(kWho, "logits", logits, {-1, output_width()});
    const int64_t rows = logits.size(0);
    at::Tensor chance = logits.new_ones({rows, 1});
    for (int64_t level = 0; level < options.depth; ++level) {
      const at::Tensor z = logits.narrow(1, (int64_t{1} << level) - 1, int64_t{1} << level);
      chance = at::stack({chance.mul(z.sigmoid()), chance.mul(z.neg().sigmoid())}, 2).view({rows, int64_t{2} << level});
    }
    return chance;
  }

  /// @brief One row in fp64 from its label.
  double row(const double* output, const double* columns, double* slope) const {
    const size_t nodes = options.edges.size(), leaves = nodes + 1;
    std::array<double, 1 << kMostDepth> chance, reach, mean, second;  // of the nodes; leaves' numbers stand in mids
    mean[0] = second[0] = 0.0;                                        // written by the last step of the loop up the tree, which compilers do not see
    const double label = *columns, each = 1.0 / static_cast<double>(nodes);
    const double* const mids = options.mids.data();
    std::array<double, 1 << kMostDepth> other, log_whole;
    detail::logistic_all(output, nodes, chance.data(), other.data(), log_whole.data());
    for (size_t i = 0; i < nodes; ++i) slope[i] = chance[i] * other[i];  // σ'
    for (size_t i = nodes; i-- > 0;) {
      const bool last = 2 * i + 1 >= nodes;
      const double left = last ? mids[2 * i + 1 - nodes] : mean[2 * i + 1], right = last ? mids[2 * i + 2 - nodes] : mean[2 * i + 2];
      mean[i] = right + chance[i] * (left - right);
    }
    const double error = mean[0] - label;
    const auto square_of_leaf = [&](size_t leaf) { return (mids[leaf] - mean[0]) * (mids[leaf] - mean[0]); };
    for (size_t i = nodes; i-- > 0;) {
      const bool last = 2 * i + 1 >= nodes;
      const double left = last ? square_of_leaf(2 * i + 1 - nodes) : second[2 * i + 1], right = last ? square_of_leaf(2 * i + 2 - nodes) : second[2 * i + 2];
      second[i] = right + chance[i] * (left - right);
    }
    const bool held = second[0] < kLeastVariance;
    const double spread = std::sqrt(held ? kLeastVariance : second[0]);
    const double by_mean = 2.0 * options.value * error, by_second = held ? 0.0 : 0.5 * options.deviation / spread;
    reach[0] = 1.0;
    for (size_t i = 0; i < nodes; ++i) {
      const size_t l = 2 * i + 1, r = l + 1;
      double means, seconds;
      if (l < nodes) {
        reach[l] = reach[i] * chance[i];
        reach[r] = reach[i] * other[i];
        means = mean[l] - mean[r];
        seconds = second[l] - second[r];
      } else {
        means = mids[l - nodes] - mids[r - nodes];
        seconds = square_of_leaf(l - nodes) - square_of_leaf(r - nodes);
      }
      slope[i] *= reach[i] * (by_mean * means + by_second * seconds);
    }
    double way = 0.0;
    for (size_t node = detail::bucket_of(options.edges, label) + leaves; node > 1; node /= 2) {  // counted from 1: the parent is half of it
      const size_t parent = node / 2 - 1;
      const bool left = node % 2 == 0;
      way += log_whole[parent] + detail::positive_part(left ? -output[parent] : output[parent]);
      slope[parent] += (left ? -other[parent] : chance[parent]) * each;
    }
    return way * each + options.value * error * error + options.deviation * spread;
  }

 private:
  static constexpr const char* kWho = "htl::TPM";
  static constexpr int kMostDepth = 10;
  static constexpr double kLeastVariance = 1e-30;

  void check_fitted() const { HTL_CHECK_STATE(is_fitted(), kWho, ": its edges or mids are not there; call tasks.fitted(training_labels), or give them"); }
  at::Tensor mids_like(const at::Tensor& chance) const { return detail::list_like(options.mids, chance).to(chance.scalar_type()); }
};

}  // namespace htl
