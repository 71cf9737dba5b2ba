// SPDX-License-Identifier: Apache-2.0
/// @file model.hpp
/// @brief Model: what the models of this folder have in common: an embedding of all fields, and a fork where the tasks' gradients meet.
#pragma once

#include "inputs.hpp"

#include <htl/gradient/backward.hpp>
#include <htl/weighting/any_weighting.hpp>
#include <htl/weighting/sum.hpp>

#include <string>
#include <utility>
#include <vector>

namespace models {

/// What every model is made from. Sizes are those of the reference model.
struct ModelOptions {
  htl::TaskSet tasks;
  InputOptions inputs;
  htl::AnyWeighting adjuster = htl::Sum{};            // how the tasks' gradients are combined where they meet
  std::vector<int64_t> tower = {128, 64, 32};         // of a task, without a trunk below it
  std::vector<int64_t> trunk = {128, 64};             // shared layers, or those of an expert
  std::vector<int64_t> tower_above_trunk = {64, 32};  // of a task
  int64_t experts = 4;                                // of a mixture
  double gate_dropout = 0.0, dropout = 0.0;
  at::Generator generator = {};  // of dropout, label noise and methods that draw; undefined = the default one
};

/// The widths of what stands at the bottom of a model: all that is embedded, and the numbers as they are.
inline std::vector<int64_t> part_widths(const ModelOptions& options) {
  std::vector<int64_t> widths{options.inputs.width()};
  if (options.inputs.numeric_width > 0) widths.push_back(options.inputs.numeric_width);
  return widths;
}

/// A model over a batch: `losses = loss(model->forward(batch), batch.labels); model->backward(losses);` whatever its adjuster.
class Model : public torch::nn::Module {
 public:
  explicit Model(const ModelOptions& options)
      : inputs(register_module("inputs", Inputs(options.inputs))),
        embedding(inputs->embedding),
        fork(register_module("fork", htl::GradientFork<htl::AnyWeighting>(options.tasks, options.adjuster))),
        adjusts_(options.adjuster.get_if<htl::Sum>() == nullptr) {
    if (inputs->learns()) shared_.add(inputs);
    if (options.generator.defined()) fork->generator() = options.generator;
  }

  /// [B, W_t] by task.
  virtual htl::TaskOutputs forward(const htl::Batch& batch) = 0;
  /// Differentiates the losses: their plain sum, or by the adjuster, exact in all that the tasks share.
  void backward(const htl::TaskLosses& losses) {
    if (!adjusts()) return losses.sum().backward();
    shared_.things() > 0 ? void(htl::backward(losses, fork, shared_)) : void(htl::backward(losses, fork));
  }
  /// The same of a step of several batches, each with a forward of its own.
  void backward(const std::vector<htl::TaskLosses>& losses) { losses.size() == 1 ? backward(losses.front()) : void(htl::backward(losses, fork, shared_)); }
  /// How many batches the adjuster wants in a step.
  int64_t batches() { return adjusts() ? fork->method().batches() : 1; }

  Inputs inputs{nullptr};
  htl::FieldEmbedding embedding{nullptr};  // of the inputs
  htl::GradientFork<htl::AnyWeighting> fork{nullptr};

 protected:
  /// Whether the losses are not just added up.
  bool adjusts() const { return adjusts_; }
  /// One view of all that is embedded for each task.
  std::vector<at::Tensor> views_of(const htl::Batch& batch) {
    if (adjusts()) return inputs->learns() ? fork->split(inputs->forward(batch)) : fork->split(embedding->lookup(batch));
    return std::vector<at::Tensor>(static_cast<size_t>(fork->tasks()), inputs->forward(batch));
  }
  /// All that is embedded, and the numbers: the parts of a trunk's input.
  std::vector<at::Tensor> parts_of(const htl::Batch& batch) {
    std::vector<at::Tensor> parts{inputs->forward(batch)};
    if (const at::Tensor numbers = inputs->numbers(batch); numbers.defined()) parts.push_back(numbers);
    return parts;
  }

  htl::Shared shared_;  // what the tasks share; nothing where that is the rows under the fork alone

 private:
  bool adjusts_;
};

}  // namespace models
