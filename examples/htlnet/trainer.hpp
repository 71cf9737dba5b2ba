// SPDX-License-Identifier: Apache-2.0
/// @file trainer.hpp
/// @brief The training loop, for CPU and CUDA: batches in, steps, the best epoch kept.
#pragma once

#include "evaluate.hpp"
#include "id_dropout.hpp"
#include "progress.hpp"

#include <htl/data/batch_loader.hpp>
#include <htl/io/warm_start.hpp>
#include <htl/loss/hybrid_loss.hpp>
#include <htl/optim/dense_parameters.hpp>
#include <htl/optim/fused_adam.hpp>
#include <htl/optim/lazy_adam.hpp>
#include <htl/optim/row_adagrad.hpp>
#include <htl/optim/schedule.hpp>
#include <htl/optim/weight_average.hpp>

#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <variant>

namespace htlnet {

/// What a training has found so far.
struct TrainingResult {
  int64_t best_epoch = 0, epochs = 0;                            // epochs: finished ones
  double best_value = std::numeric_limits<double>::quiet_NaN();  // without validation rows
  double train_seconds = 0.0, samples_per_second = 0.0;
};

/// What a training tells and asks whoever runs it.
struct Hooks {
  std::function<void(const nlohmann::json&)> log;  // one object a logged step or evaluation
  std::function<void()> keep;                      // the epoch is the best so far, and its weights are in the model
  std::function<void(int64_t)> checkpoint;         // the state is between two steps, and to be saved
  std::function<bool()> is_asked_to_stop;          // between two steps
};

/// Batches of the training rows, all of them in every epoch. On CUDA the rows of short form live there; Trainer::run pads their last batch, and the loader that
/// of rows with bags, so that all batches have one shape.
htl::BatchLoader training_loader(const htl::TableData& train, const TrainOptions& options, const torch::Device& device);

/// One model, its optimizers and its loop. `Trainer::step` is one training step without a host synchronisation.
class Trainer {
 public:
  /// @param net on its device already
  /// @param tasks with fitted label transforms
  /// @param steps_per_epoch for decays that end with the run: training_loader().batches()
  Trainer(HtlNet net, htl::TaskSet tasks, const Options& options, int64_t steps_per_epoch);

  /// What a step leaves to read; nothing is read back.
  struct StepResult {
    torch::Tensor losses;  // [T], without the balancer's weights
    std::optional<htl::GradientReport> report;
    torch::Tensor gradient_norm;  // undefined without clipping
  };

  /// Gives the optimizers the rates of the coming step. The caller's duty before each step(), and not a part of it: a captured step would keep one rate.
  void set_rates();

  /// One update with one batch on the net's device.
  /// @param watch also report norms and cosines where the plain sum is used
  StepResult step(const htl::Batch& batch, bool watch = false);

  /// Epochs until the best one is `patience` epochs old; from where the state is, which load() may have changed. A checkpoint ends each.
  /// @param train from training_loader()
  /// @returns whether it came to its end; false = it was asked to stop, and has saved a checkpoint
  bool run(htl::BatchLoader& train, const htl::TableData& valid, const Groups& groups, const Selection& selection, const Hooks& hooks);

  /// Everything that the coming steps depend on, but the loader.
  void add_to(htl::TrainingState& state);

  /// The optimizers' state by the names of the net's parameters.
  htl::Named<torch::Tensor> optimizer_state();
  /// Takes an earlier run's weights and optimizer_state() over; without the latter the optimizers begin anew. Before the first step.
  void carry_over(htl::WarmStart& start, const htl::Named<torch::Tensor>& weights, const htl::Named<torch::Tensor>& state);

  HtlNet& net() { return net_; }
  int64_t steps() const { return step_; }
  const TrainingResult& result() const { return result_; }

 private:
  bool train_epoch(htl::BatchLoader& train, Progress& progress, const Hooks& hooks);
  void end_epoch(const htl::BatchLoader& train, const htl::TableData& valid, const Groups& groups, const Selection& selection, Progress& progress,
                 const Hooks& hooks);
  bool is_over(const htl::TableData& valid) const;
  /// A batch of training_loader() as step() takes it: on the device, and there of the same shape as every other.
  htl::Batch on_device(const htl::Batch& batch) const;
  /// Notes in device memory which tasks' losses are finite, [T]. Returns a bool scalar there: false from the first other one on, which freezes every update.
  torch::Tensor watch_losses(const torch::Tensor& finite);
  /// Refuses with task and step if that scalar is false.
  void check_finite(const torch::Tensor& active) const;
  void read_losses(const StepResult& result, nlohmann::json& line);

  HtlNet net_;
  htl::TaskSet tasks_;
  Options options_;
  torch::Device device_;
  IdDropout id_dropout_;
  htl::HybridLoss loss_;
  std::vector<torch::Tensor> dense_parameters_;
  htl::RowTables tables_;
  std::variant<htl::RowAdagrad, htl::LazyAdam> rows_;
  htl::FusedAdam dense_;
  std::unique_ptr<htl::WeightAverage> average_;
  htl::AnySchedule row_rate_, dense_rate_;
  torch::Tensor bad_step_;  // [T] int64 on the device: the first step whose loss was not finite, or 0
  torch::Tensor count_;     // int64 on the device: step_, where a captured graph reads it
  int64_t step_ = 0;
  double epoch_seconds_ = 0.0;  // of the current epoch
  bool kept_ = false;           // whether an epoch's weights were kept
  TrainingResult result_;
};

}  // namespace htlnet
