// SPDX-License-Identifier: Apache-2.0
/// @file fused.hpp
/// @brief Fused: how well a formula over the tasks' predictions orders the rows of a group.
#pragma once

#include "expression.hpp"
#include "summary.hpp"

#include <htl/metrics/grouped_auc.hpp>
#include <htl/metrics/ndcg.hpp>

#include <ATen/ops/empty.h>

#include <cmath>
#include <limits>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace compare {

inline constexpr int64_t ndcg_positions = 10;

namespace detail {

/// The fused score of every row, [N] float64; undefined where it is not finite somewhere.
/// @param least of each name: a smaller prediction counts as that, so that a product with a negative amount does not turn the order round
inline at::Tensor score_of(const Expression& expression, const std::vector<std::string>& names, const std::vector<double>& least,
                           const htl::Predictions& predictions) {
  std::vector<at::Tensor> columns;
  for (size_t c = 0; c < names.size(); ++c) columns.push_back(predictions[names[c]].to(at::kDouble).clamp_min(least[c]).contiguous());
  at::Tensor scores = at::empty({columns.front().size(0)}, at::kDouble);
  std::vector<double> values(names.size());
  for (int64_t r = 0; r < scores.size(0); ++r) {
    for (size_t c = 0; c < columns.size(); ++c) values[c] = columns[c].const_data_ptr<double>()[r];
    const double score = expression(values);
    if (!std::isfinite(score)) return {};
    scores.mutable_data_ptr<double>()[r] = score;
  }
  return scores;
}

}  // namespace detail

/// @brief Adds the score's figures to a cell's, and its columns to the tables'.
class Fused {
 public:
  /// @brief The score that --score asks for.
  /// @param group context column within which rows are ordered; empty = there is no score
  Fused(const Setup& setup, std::string group) : tasks_(setup.data.tasks), labels_(setup.data.test.labels()), group_(std::move(group)) {
    const htl::Labels& training = setup.data.train.labels();
    for (int64_t t = 0; t < tasks_.size(); ++t) {
      if (tasks_[t].kind() == htl::TaskKind::multiclass) continue;
      names_.push_back(tasks_[t].name());
      htl::Label label = training[tasks_[t].name()];
      label.mask = tasks_.observed(t, training);
      const at::Tensor rows = label.observed_rows(), counted = rows.defined() ? label.value.index_select(0, rows) : label.value;
      least_.push_back(counted.numel() > 0 ? counted.min().item<double>() : -std::numeric_limits<double>::infinity());
    }
    if (!setup.options.score.empty()) expression_.emplace(setup.options.score, names_);
  }
  /// @brief Its figures: of each event gauc(TASK), of what a list should bring ndcg@10(TASK).
  std::vector<Measured> columns() const {
    std::vector<Measured> columns;
    if (!expression_ || group_.empty()) return columns;
    for (const htl::TaskSpec& task : tasks_) {
      if (task.kind() == htl::TaskKind::binary) columns.push_back({"score", "gauc(" + task.name() + ")"});
      if (ranks(task)) columns.push_back({"score", "ndcg@10(" + task.name() + ")"});
    }
    return columns;
  }
  /// @brief Measures the score of a cell.
  /// @param test its metrics, which get those of "score"
  /// @returns whether the score is finite everywhere
  bool add_to(nlohmann::json& test, const htl::Predictions& predictions) const {
    if (!expression_ || group_.empty()) return true;
    const at::Tensor score = detail::score_of(*expression_, names_, least_, predictions);
    if (!score.defined()) return false;
    for (int64_t t = 0; t < tasks_.size(); ++t) {
      const htl::TaskSpec& task = tasks_[t];
      htl::Label label = labels_[task.name()];
      label.mask = tasks_.observed(t, labels_);
      if (task.kind() == htl::TaskKind::binary) {
        htl::GroupedAuc within;
        within.add(score, label, labels_.context[group_]);
        test["score"]["gauc(" + task.name() + ")"] = within.value();
      }
      if (ranks(task)) {
        label.weight = at::Tensor();
        htl::Ndcg ndcg({.top = ndcg_positions});
        ndcg.add(score, label, labels_.context[group_]);
        test["score"]["ndcg@10(" + task.name() + ")"] = ndcg.value();
      }
    }
    return true;
  }

 private:
  /// Whether a task's label is what a list should bring: a core one that is never below 0.
  bool ranks(const htl::TaskSpec& task) const {
    return task.is_core() && task.kind() != htl::TaskKind::multiclass && labels_[task.name()].value.numel() > 0 &&
           !labels_[task.name()].value.lt(0).any().item<bool>();
  }

  const htl::TaskSet& tasks_;
  const htl::Labels& labels_;
  std::string group_;
  std::vector<std::string> names_;
  std::vector<double> least_;  // training label of each name
  std::optional<Expression> expression_;
};

}  // namespace compare
