// SPDX-License-Identifier: Apache-2.0
/// @file optimizers.hpp
/// @brief The optimizers of a cell, as htlnet train makes them.
#pragma once

#include "grid.hpp"

#include <examples/htlnet/options.hpp>

#include <htl/optim/clip.hpp>
#include <htl/optim/dense_parameters.hpp>
#include <htl/optim/fused_adam.hpp>
#include <htl/optim/lazy_adam.hpp>
#include <htl/optim/row_adagrad.hpp>
#include <htl/optim/schedule.hpp>
#include <htl/optim/weight_average.hpp>

#include <algorithm>
#include <memory>
#include <variant>
#include <vector>

namespace compare {

/// @brief Rows, dense parameters, what a balancer learns, and the average of the weights.
class Optimizers {
 public:
  /// @param learned of a balancer; without weight decay
  Optimizers(const torch::nn::Module& model, std::vector<at::Tensor> learned, const htlnet::TrainOptions& options, const Rates& rates, int64_t steps_per_epoch)
      : clip_norm_(options.clip_norm),
        tables_(model),
        parameters_(htl::dense_parameters(model)),
        rows_(rows_of(tables_, options, rates)),
        dense_(parameters_, {.lr = rates.dense_lr, .weight_decay = rates.weight_decay, .decoupled_weight_decay = options.dense_optimizer == "adamw"}),
        row_rate_(schedule_of(options, rates.row_lr, options.epochs * steps_per_epoch)),
        dense_rate_(schedule_of(options, rates.dense_lr, options.epochs * steps_per_epoch)) {
    if (!learned.empty()) learned_ = std::make_unique<htl::FusedAdam>(std::move(learned), htl::FusedAdamOptions{.lr = rates.dense_lr});
    if (options.average == "mean")
      average_ = std::make_unique<htl::WeightAverage>(tables_, parameters_, htl::WeightAverageOptions{.decay = 0.0, .start = steps_per_epoch, .every = 1});
    else if (options.average != "none")
      average_ = std::make_unique<htl::WeightAverage>(tables_, parameters_, htl::WeightAverageOptions{.decay = htlnet::average_decay(options.average)});
  }

  /// @brief Before a backward pass.
  void zero_grad() {
    dense_.zero_grad();
    if (learned_) learned_->zero_grad();
  }
  /// @brief After it.
  void step() {
    std::visit([&](auto& rows) { htl::set_lr(rows, row_rate_(steps_)); }, rows_);
    htl::set_lr(dense_, dense_rate_(steps_));
    if (learned_) htl::set_lr(*learned_, dense_rate_(steps_));
    if (clip_norm_ > 0.0) htl::clip_grad_norm(tables_, parameters_, clip_norm_);
    if (average_) average_->update();
    std::visit([](auto& rows) { rows.step(); }, rows_);
    dense_.step();
    if (learned_) learned_->step();
    ++steps_;
  }
  /// @brief The averages in the model, for as long as the guard lives; nothing without averaging.
  std::optional<htl::WeightAverage::Guard> averaged() {
    std::optional<htl::WeightAverage::Guard> guard;
    if (average_) guard.emplace(average_->apply());
    return guard;
  }
  int64_t steps() const { return steps_; }

 private:
  using RowOptimizer = std::variant<htl::RowAdagrad, htl::LazyAdam>;
  static RowOptimizer rows_of(const htl::RowTables& tables, const htlnet::TrainOptions& options, const Rates& rates) {
    if (options.row_optimizer == "lazy_adam") return htl::LazyAdam(tables, {.lr = rates.row_lr, .weight_decay = options.row_weight_decay});
    return htl::RowAdagrad(tables, {.lr = rates.row_lr, .weight_decay = options.row_weight_decay, .elementwise = options.row_optimizer == "adagrad"});
  }
  static htl::AnySchedule schedule_of(const htlnet::TrainOptions& options, double rate, int64_t steps) {
    const int64_t rest = std::max<int64_t>(1, steps - 1 - options.warmup);
    if (options.decay == "linear") return htl::WarmUp{options.warmup, htl::LinearDecay{rate, rest, 0.0}};
    if (options.decay == "cosine") return htl::WarmUp{options.warmup, htl::CosineDecay{rate, rest, 0.0}};
    return htl::WarmUp{options.warmup, htl::ConstantRate{rate}};
  }

  double clip_norm_;
  htl::RowTables tables_;
  std::vector<at::Tensor> parameters_;
  RowOptimizer rows_;
  htl::FusedAdam dense_;
  htl::AnySchedule row_rate_, dense_rate_;
  std::unique_ptr<htl::FusedAdam> learned_;
  std::unique_ptr<htl::WeightAverage> average_;
  int64_t steps_ = 0;
};

}  // namespace compare
