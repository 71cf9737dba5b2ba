// SPDX-License-Identifier: Apache-2.0
/// @file pairwise_ranking.hpp
/// @brief PairwiseRanking: what was liked more should get the higher output, among the rows of a group.
/// Not in the umbrella: include it where it is used.
#pragma once

#include <htl/loss/detail/other_tasks.hpp>
#include <htl/loss/detail/special.hpp>
#include <htl/loss/one_pass.hpp>

#include <ATen/ops/ones_like.h>

#include <algorithm>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

namespace htl::inline v0_1_0 {

/// @brief Choices of PairwiseRanking.
struct PairwiseRankingOptions {
  /// The context column whose equal values make a group: a user, a request. NaN is no group: such a row is in no pair. (HybridLoss on the CPU refuses NaN.)
  std::string group;
  /// Two rows make a pair if their labels differ by more than this, in the label's unit.
  double margin = 0.0;
};

/// @brief The mean over pairs (i, j) of one group with y_i > y_j + margin of softplus(−(x_i − x_j)), weighted by w_i·w_j: a term beside another loss of the
/// task.
///
/// Width 1. Labels: any finite number, in their own unit. Pairs are those of the batch in which both rows count. Gradient: −σ(x_j − x_i) into x_i and its
/// negative into x_j, over the pairs' weights. The prediction is the output itself: a score, whose unit is another loss's affair. Finite for all finite
/// outputs.
///
/// `reduced` is that mean; a batch without pairs gives 0 with a graph. `per_row` is what each row has of it: half of its pairs' losses, scaled so that Σ
/// share·per_row is the mean; rows without pairs have 0. `reduced` on the CPU sorts the rows by group and visits each pair once, O(B log B + Σ_g n_g²) time and
/// O(B) memory, by one thread a group in a fixed order: the same bits for any number of threads. `per_row`, and `reduced` on other devices: O(B²) time and
/// memory. No synchronisation.
///
/// Source: Burges et al., Learning to Rank using Gradient Descent (RankNet), 2005; with events it is BPR, Rendle et al., 2009.
///
///     htl::regression("watch_time").loss(htl::Huber{}).loss(htl::PairwiseRanking({.group = "user"}), 0.1)
struct PairwiseRanking {
  /// @brief With its options.
  /// @throws c10::ValueError for an empty group or a margin that is not finite and ≥ 0
  explicit PairwiseRanking(PairwiseRankingOptions choices) : options(std::move(choices)) {
    HTL_CHECK(!options.group.empty(), kWho, ": expected the name of the group's context column, got an empty one");
    HTL_CHECK(options.margin >= 0.0 && std::isfinite(options.margin), kWho, ": expected a finite margin ≥ 0, got ", options.margin);
  }
  /// What it was made with.
  PairwiseRankingOptions options;

  /// @brief "pairwise_ranking"
  std::string name() const { return "pairwise_ranking"; }
  /// @brief 1
  int64_t output_width() const { return 1; }
  /// @brief group, margin
  Options parameters() const { return {{"group", options.group}, {"margin", options.margin}}; }
  /// @brief The group's column.
  std::vector<std::string> context() const { return {options.group}; }
  /// @brief Binary and regression tasks.
  bool fits(TaskKind kind) const { return kind != TaskKind::multiclass; }

  /// @brief [B] from outputs [B] or [B, 1], labels [B], groups [B] and, if given, weights [B].
  /// @throws c10::ValueError on other shapes
  at::Tensor operator()(const at::Tensor& outputs, const at::Tensor& labels, const at::Tensor& groups, const at::Tensor& weights = {}) const {
    const at::Tensor x = detail::column(kWho, outputs, labels), w = weights.defined() ? weights.to(x.scalar_type()) : at::ones_like(labels, x.scalar_type());
    check_shape(kWho, "groups", groups, {x.size(0)});
    check_shape(kWho, "weights", w, {x.size(0)});
    const at::Tensor y = labels.detach().to(at::kDouble);
    const at::Tensor both = w.unsqueeze(1).mul(w.unsqueeze(0)), same = groups.unsqueeze(1).eq(groups.unsqueeze(0)).logical_and(both.ne(0));
    const at::Tensor better = y.unsqueeze(1).sub(y.unsqueeze(0)).gt(options.margin).logical_and(same);
    const at::Tensor pair = both.mul(better);
    const at::Tensor scores = x.masked_fill(w.eq(0), 0);                                     // what rows that do not count hold enters no pair
    const at::Tensor lost = detail::softplus(scores.unsqueeze(0).sub(scores.unsqueeze(1)));  // [i, j]: softplus(x_j − x_i)
    const at::Tensor scale = w.sum().mul(0.5).div(pair.sum().clamp_min(std::numeric_limits<float>::min()));
    const at::Tensor other = better.to(x.scalar_type()).mul(lost);
    return other.mul(w).sum(1).add(other.mul(w.unsqueeze(1)).sum(0)).mul(scale);
  }
  /// @brief [B] of a task's output.
  at::Tensor per_row(const LossInput& input) const { return (*this)(input.output, input.label, groups(input), input.weight); }
  /// @brief The mean over pairs, in one pass. Differentiable once in the output.
  at::Tensor reduced(const LossInput& input, const at::Tensor& share) const {
    if (!input.output.is_cpu()) return weighted_sum((*this)(input.output, input.label, groups(input), share), share.div(share.sum().clamp_min(kTiny)));
    detail::check_rows(*this, input.output, input.label, share);
    const Pass pass{options.margin, groups(input)};
    return detail::OnePass::apply(input.output, input.label, share, single(input) ? &pairs<float> : &pairs<double>, static_cast<const void*>(&pass));
  }
  /// @brief The output [B] itself.
  at::Tensor predict(const at::Tensor& output, const Named<at::Tensor>&) const { return detail::column(kWho, output); }

 private:
  static constexpr const char* kWho = "htl::PairwiseRanking";
  static constexpr double kTiny = std::numeric_limits<float>::min();

  struct Pass {
    double margin;
    at::Tensor groups;
  };

  static bool single(const LossInput& input) { return input.output.scalar_type() == at::kFloat; }

  /// int64 or fp64, so that ids stay ids.
  at::Tensor groups(const LossInput& input) const {
    const at::Tensor* const column = input.context.find(options.group);
    const bool whole = column && column->defined() && !column->is_floating_point();
    at::Tensor groups = detail::column_of(kWho, input.context, options.group, whole ? at::kLong : at::kDouble);
    check_shape(kWho, "groups", groups, {input.output.size(0)});
    return groups;
  }

  /// The rows that count and have a group, by group; inside a group in the order of the batch.
  template <class T, class G>
  static std::vector<int64_t> sorted_rows(const T* share, const G* group, int64_t rows) {
    std::vector<int64_t> order;
    for (int64_t row = 0; row < rows; ++row)
      if (share[row] != T(0) && group[row] == group[row]) order.push_back(row);
    std::sort(order.begin(), order.end(), [group](int64_t a, int64_t b) { return group[a] < group[b] || (group[a] == group[b] && a < b); });
    return order;
  }

  /// Fills value with Σ w_i w_j l_ij / Σ w_i w_j and slope with its derivatives.
  template <class T>
  static void pairs(const void* erased, const at::Tensor& output, const at::Tensor& label, const at::Tensor& weights, at::Tensor& slope, at::Tensor& value) {
    const Pass& pass = *static_cast<const Pass*>(erased);
    const bool whole = pass.groups.scalar_type() == at::kLong;
    const at::Tensor groups = pass.groups.contiguous();
    const int64_t rows = output.size(0);
    const T* const x = output.const_data_ptr<T>();
    const T* const share = weights.const_data_ptr<T>();
    const at::Tensor labels = label.to(at::kDouble).contiguous();
    const double* const y = labels.const_data_ptr<double>();
    const std::vector<int64_t> order =
        whole ? sorted_rows(share, groups.const_data_ptr<int64_t>(), rows) : sorted_rows(share, groups.const_data_ptr<double>(), rows);
    const auto same = [&](int64_t a, int64_t b) {
      return whole ? groups.const_data_ptr<int64_t>()[a] == groups.const_data_ptr<int64_t>()[b]
                   : groups.const_data_ptr<double>()[a] == groups.const_data_ptr<double>()[b];
    };
    std::vector<int64_t> starts;
    double largest = 0.0;
    for (size_t k = 0; k < order.size(); ++k) {
      if (k == 0 || !same(order[k - 1], order[k])) starts.push_back(static_cast<int64_t>(k));
      largest = std::max(largest, static_cast<double>(share[order[k]]));
    }
    const int64_t count = static_cast<int64_t>(starts.size());
    starts.push_back(static_cast<int64_t>(order.size()));
    std::vector<double> slopes(static_cast<size_t>(rows), 0.0), losses(static_cast<size_t>(count), 0.0), masses(static_cast<size_t>(count), 0.0);
    at::parallel_for(0, count, 1, [&](int64_t first, int64_t last) {
      for (int64_t g = first; g < last; ++g) {
        double loss = 0.0, mass = 0.0;
        for (int64_t a = starts[static_cast<size_t>(g)]; a < starts[static_cast<size_t>(g) + 1]; ++a) {
          const int64_t i = order[static_cast<size_t>(a)];
          const double wi = static_cast<double>(share[i]) / largest;
          for (int64_t b = starts[static_cast<size_t>(g)]; b < a; ++b) {
            const int64_t j = order[static_cast<size_t>(b)];
            const double difference = y[i] - y[j];
            if (!(std::abs(difference) > pass.margin)) continue;
            const double both = wi * (static_cast<double>(share[j]) / largest);
            const bool ahead = difference > 0.0;
            const detail::Logistic one = detail::logistic(static_cast<double>(ahead ? x[i] : x[j]) - static_cast<double>(ahead ? x[j] : x[i]));
            loss += both * one.under;
            mass += both;
            const double pull = ahead ? -both * one.down : both * one.down;
            slopes[static_cast<size_t>(i)] += pull;
            slopes[static_cast<size_t>(j)] -= pull;
          }
        }
        losses[static_cast<size_t>(g)] = loss;
        masses[static_cast<size_t>(g)] = mass;
      }
    });
    const double loss = std::accumulate(losses.begin(), losses.end(), 0.0), mass = std::accumulate(masses.begin(), masses.end(), 0.0);
    const double scale = mass > 0.0 ? 1.0 / mass : 0.0;
    T* const result = slope.mutable_data_ptr<T>();
    for (int64_t row = 0; row < rows; ++row) result[row] = static_cast<T>(slopes[static_cast<size_t>(row)] * scale);
    *value.mutable_data_ptr<T>() = static_cast<T>(loss * scale);
  }
};

}  // namespace htl
