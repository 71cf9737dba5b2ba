// SPDX-License-Identifier: Apache-2.0
/// @file additive_model.hpp
/// @brief The best model that adds one number per field: the floor from which the closed share of the gap to the optimum is counted.
#pragma once

#include <examples/htlnet/data/synthetic.hpp>

#include <array>
#include <cmath>
#include <vector>

namespace htlnet {

/// @brief How the sum of effects becomes a prediction.
enum class Link {
  logistic,  ///< σ(sum), fitted by likelihood
  identity   ///< the sum itself, fitted by least squares
};

/// @brief effect[user] + effect[item] + effect[tab] + effect[hour], under a link. The other four fields are functions of user or item: they add nothing.
class AdditiveModel {
 public:
  /// @brief The fields whose effects are added.
  static constexpr std::array<int32_t, 4> sizes = {SyntheticWorld::users, SyntheticWorld::items, SyntheticWorld::tabs, SyntheticWorld::hours};

  /// @brief Fits to a target per row by Newton steps, one field after the other, until no effect moves by 1e-5 of a unit (at most 100 sweeps).
  /// @param rows the fields
  /// @param target the expectation to project, or a label; with the logistic link in [0, 1]
  /// @param link logistic or identity
  AdditiveModel(const std::vector<SyntheticRow>& rows, const std::vector<double>& target, Link link) : link_(link) {
    HTL_CHECK(rows.size() == target.size() && !rows.empty(), "htlnet::AdditiveModel: expected one target a row, got ", target.size(), " for ", rows.size());
    for (size_t f = 0; f < sizes.size(); ++f) effect_[f].assign(static_cast<size_t>(sizes[f]), 0.0);
    std::vector<double> sum(rows.size(), 0.0);
    double scale = 0.0;
    for (const double value : target) scale += std::abs(value) / static_cast<double>(target.size());
    const double unit = link == Link::logistic ? 1.0 : std::max(scale, 1e-300);
    for (int sweep = 0; sweep < 100; ++sweep) {
      double moved = 0.0;
      for (size_t f = 0; f < sizes.size(); ++f) moved = std::max(moved, improve(f, rows, target, sum));
      if (moved < 1e-5 * unit) break;
    }
  }
  /// @brief The prediction of a row.
  double operator()(const SyntheticRow& row) const {
    double sum = 0.0;
    for (size_t f = 0; f < sizes.size(); ++f) sum += effect_[f][id(row, f)];
    return inverse(sum);
  }

 private:
  static size_t id(const SyntheticRow& row, size_t field) {
    return static_cast<size_t>(field == 0 ? row.user : field == 1 ? row.item : field == 2 ? row.tab : row.hour);
  }
  double inverse(double sum) const { return link_ == Link::identity ? sum : 1.0 / (1.0 + std::exp(-sum)); }

  /// One Newton step for all effects of a field (their rows are disjoint, so the Hessian is diagonal); returns the largest step.
  double improve(size_t field, const std::vector<SyntheticRow>& rows, const std::vector<double>& target, std::vector<double>& sum) {
    std::vector<double> gradient(effect_[field].size(), 0.0), curvature(effect_[field].size(), 0.0);
    for (size_t r = 0; r < rows.size(); ++r) {
      const double mean = inverse(sum[r]);
      gradient[id(rows[r], field)] += target[r] - mean;
      curvature[id(rows[r], field)] += link_ == Link::identity ? 1.0 : mean * (1.0 - mean);
    }
    double moved = 0.0;
    for (size_t i = 0; i < gradient.size(); ++i) {
      double step = curvature[i] > 1e-12 ? gradient[i] / curvature[i] : 0.0;
      if (link_ == Link::logistic) step = std::clamp(step, -1.0, 1.0);  // far from the optimum Newton's step overshoots
      gradient[i] = step;
      effect_[field][i] += step;
      moved = std::max(moved, std::abs(step));
    }
    for (size_t r = 0; r < rows.size(); ++r) sum[r] += gradient[id(rows[r], field)];
    return moved;
  }

  Link link_;
  std::array<std::vector<double>, sizes.size()> effect_;
};

/// @brief The best additive model of each task of a scenario.
///
/// Not the additive part of the true model (under products of probabilities that is the best for no task but the first), but the projection of the true
/// expectations onto additive models, by each task's own loss: no label noise and no overfitting, so no additive model that is trained on labels does better.
struct BestAdditive {
  AdditiveModel click;   ///< logistic
  AdditiveModel second;  ///< logistic
  AdditiveModel value;   ///< least squares

  /// @brief Projects on fresh rows of the same world, drawn over a span of time (the test rows': an additive model has no drift of its own).
  /// @param options scenario and seed; its rows don't matter
  /// @param from,to the span within [0, 1)
  /// @param rows how many fresh rows; 300 for every user on average
  static BestAdditive of(const SyntheticOptions& options, double from, double to, int64_t rows = 300000) {
    const SyntheticWorld world(options.scenario, options.seed);
    std::vector<SyntheticRow> fresh(static_cast<size_t>(rows));
    at::parallel_for(0, rows, 4096, [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r)
        fresh[static_cast<size_t>(r)] = world.draw(static_cast<uint64_t>(r), from + (to - from) * static_cast<double>(r) / static_cast<double>(rows), 4);
    });
    const auto column = [&](double SyntheticRow::*truth) {
      std::vector<double> values;
      for (const SyntheticRow& row : fresh) values.push_back(row.*truth);
      return values;
    };
    return {{fresh, column(&SyntheticRow::true_click), Link::logistic},
            {fresh, column(&SyntheticRow::true_second), Link::logistic},
            {fresh, column(&SyntheticRow::true_value), Link::identity}};
  }
};

}  // namespace htlnet
