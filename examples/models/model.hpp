// SPDX-License-Identifier: Apache-2.0
/// @file model.hpp
/// @brief Model: what the models of this folder have in common: an embedding of all fields, and a fork where the tasks' gradients meet.
#pragma once

#include <htl/embedding/field_embedding.hpp>
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
  htl::FieldEmbeddingOptions fields;
  int64_t numeric_width = 0;                          // columns of Batch::numeric that are read as they are
  htl::AnyWeighting adjuster = htl::Sum{};            // how the tasks' gradients are combined where they meet
  std::vector<int64_t> tower = {128, 64, 32};         // of a task, without a trunk below it
  std::vector<int64_t> trunk = {128, 64};             // shared layers, or those of an expert
  std::vector<int64_t> tower_above_trunk = {64, 32};  // of a task
  int64_t experts = 4;                                // of a mixture
  double gate_dropout = 0.0, dropout = 0.0;
  at::Generator generator = {};  // of dropout, label noise and methods that draw; undefined = the default one
};

/// A model over a batch: `losses = loss(model->forward(batch), batch.labels); model->backward(losses);` whatever its adjuster.
class Model : public torch::nn::Module {
 public:
  explicit Model(const ModelOptions& options)
      : embedding(register_module("embedding", htl::FieldEmbedding(options.fields))),
        fork(register_module("fork", htl::GradientFork<htl::AnyWeighting>(options.tasks, options.adjuster))),
        adjusts_(options.adjuster.get_if<htl::Sum>() == nullptr) {
    if (options.generator.defined()) fork->generator() = options.generator;
  }

  /// [B, W_t] by task.
  virtual htl::TaskOutputs forward(const htl::Batch& batch) = 0;
  /// Differentiates the losses: their plain sum, or by the adjuster, exact in all that the tasks share.
  virtual void backward(const htl::TaskLosses& losses) { adjusts() ? void(htl::backward(losses, fork)) : losses.sum().backward(); }

  htl::FieldEmbedding embedding{nullptr};
  htl::GradientFork<htl::AnyWeighting> fork{nullptr};

 protected:
  /// Whether the losses are not just added up.
  bool adjusts() const { return adjusts_; }
  /// One view of the embeddings for each task.
  std::vector<at::Tensor> views_of(const htl::Batch& batch) {
    htl::Lookup lookup = embedding->lookup(batch);
    return adjusts() ? fork->split(lookup) : std::vector<at::Tensor>(static_cast<size_t>(fork->tasks()), lookup.values());
  }
  /// The embeddings and the numbers: the parts of a trunk's input.
  std::vector<at::Tensor> parts_of(const htl::Batch& batch) {
    std::vector<at::Tensor> parts{embedding->lookup(batch).values()};
    if (batch.numeric.defined()) parts.push_back(batch.numeric);
    return parts;
  }
  std::vector<int64_t> part_widths(const ModelOptions& options) const {
    return options.numeric_width > 0 ? std::vector<int64_t>{embedding->width(), options.numeric_width} : std::vector<int64_t>{embedding->width()};
  }

 private:
  bool adjusts_;
};

}  // namespace models
