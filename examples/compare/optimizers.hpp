// SPDX-License-Identifier: Apache-2.0
/// @file optimizers.hpp
/// @brief The optimizers of a cell, as htlnet train makes them.
#pragma once

#include <examples/htlnet/optimizers.hpp>

#include <htl/optim/clip.hpp>
#include <htl/optim/dense_parameters.hpp>
#include <htl/optim/fused_adam.hpp>

#include <memory>
#include <optional>
#include <utility>
#include <variant>
#include <vector>

namespace compare {

/// @brief Rows, dense parameters, what a balancer learns, and the average of the weights.
class Optimizers {
 public:
  /// @param learned of a balancer; without weight decay
  Optimizers(const torch::nn::Module& model, std::vector<at::Tensor> learned, const htlnet::TrainOptions& options, int64_t steps_per_epoch)
      : clip_norm_(options.clip_norm),
        tables_(model),
        parameters_(htl::dense_parameters(model)),
        rows_(htlnet::row_optimizer_of(tables_, options)),
        dense_(parameters_, {.lr = options.dense_lr, .weight_decay = options.weight_decay, .decoupled_weight_decay = options.dense_optimizer == "adamw"}),
        row_rate_(htlnet::schedule_of(options, options.row_lr, options.epochs * steps_per_epoch)),
        dense_rate_(htlnet::schedule_of(options, options.dense_lr, options.epochs * steps_per_epoch)),
        average_(htlnet::average_of(options, tables_, parameters_, steps_per_epoch)) {
    if (!learned.empty()) learned_ = std::make_unique<htl::FusedAdam>(std::move(learned), htl::FusedAdamOptions{.lr = options.dense_lr});
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
  double clip_norm_;
  htl::RowTables tables_;
  std::vector<at::Tensor> parameters_;
  htlnet::RowOptimizer rows_;
  htl::FusedAdam dense_;
  htl::AnySchedule row_rate_, dense_rate_;
  std::unique_ptr<htl::WeightAverage> average_;
  std::unique_ptr<htl::FusedAdam> learned_;
  int64_t steps_ = 0;
};

}  // namespace compare
