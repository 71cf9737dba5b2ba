// SPDX-License-Identifier: Apache-2.0
/// @file model.hpp
/// @brief The reference model: field embeddings, a gradient fork, and towers that pass on what they know. With `shared_embedding` its control.
#pragma once

#include "options.hpp"

#include <htl/embedding/field_embedding.hpp>
#include <htl/gradient/backward.hpp>
#include <htl/transfer/task_graph.hpp>
#include <htl/weighting/built_in_methods.hpp>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/ones.h>

#include <optional>

namespace htlnet {

inline htl::CoreTask core_task_of(const ModelOptions& options) {
  return {.alpha = options.alpha,
          .gamma = options.gamma,
          .clip_ratio = options.clip_ratio,
          .norm = options.norm == "after"     ? htl::NormReference::after_projection
                  : options.norm == "average" ? htl::NormReference::moving_average
                                              : htl::NormReference::before_projection,
          .several_cores = options.several_cores == "own" ? htl::SeveralCores::own : htl::SeveralCores::combined};
}

/// What --adjuster names; core_task without options of its own takes those of --alpha, --gamma, ….
inline htl::AnyWeighting adjuster_of(const ModelOptions& options) {
  if (options.adjuster == "core_task") return htl::AnyWeighting(core_task_of(options), "core_task");
  return htl::built_in_methods().make(htl::parse_method(options.adjuster));
}

/// Asks the adjuster once, on unit gradients, so that what it refuses for these tasks it refuses before there is a run: no core, weights of another number.
inline void check_adjuster(const ModelOptions& options, const htl::TaskSet& tasks) {
  const htl::AnyWeighting adjuster = adjuster_of(options);
  htl::TaskGradients gradients = htl::task_gradients(at::eye(tasks.size(), at::kDouble));
  gradients.gramian.cores = tasks.cores();
  gradients.gramian.losses = at::ones({tasks.size()}, at::kDouble);
  gradients.gramian.generator = at::detail::createCPUGenerator(0);
  htl::AnyWeighting::State memory = adjuster.initial_state();
  adjuster.aggregate(gradients, memory);
}

inline htl::TaskGraphOptions graph_options_of(const ModelOptions& options, int64_t width, int64_t numeric_width) {
  htl::LabelEmbeddingOptions label;
  label.dim(options.label_dim).noise(htl::label_noise(options.label_noise)).hardness(htl::label_hardness(options.label_hardness));
  label.temperature(htl::Temperature::parse(options.temperature));
  if (options.label_evaluation != "auto") label.evaluation(htl::label_evaluation(options.label_evaluation));
  return htl::TaskGraphOptions(width)
      .numeric_width(numeric_width)
      .tower(options.tower)
      .dropout(options.dropout)
      .representation(options.representation == "last" ? htl::last_hidden : htl::first_hidden)
      .transfer(options.model == "shared_embedding" ? htl::Transfer::none : htl::transfer(options.transfer))
      .stop_gradient(htl::stop_gradient(options.stop_gradient))
      .fusion(htl::fusion_kind(options.fusion))
      .label(label);
}

/// How a forward prepares for backward: one shared gradient, or one a task.
enum class Gradients {
  summed,    // losses.sum().backward()
  adjusted,  // htl::backward(losses, net->adjuster)
  watched    // htl::backward(losses, net->plain_sum): the plain sum, with a report
};

class HtlNetImpl : public torch::nn::Module {
 public:
  /// @param fields names and sizes of the vocabularies
  /// @param numeric_width columns of dense numeric features
  template <htl::FieldVocabulary Fields>
  HtlNetImpl(const Fields& fields, int64_t numeric_width, const htl::TaskSet& tasks, const ModelOptions& options)
      : embedding(register_module(
            "embedding",
            htl::FieldEmbedding(
                htl::FieldEmbeddingOptions(fields, options.embedding_dim).unknown_ids(htl::UnknownIds::map_to_zero).initial_sd(options.embedding_sd)))),
        adjuster(register_module("adjuster", htl::GradientFork<htl::AnyWeighting>(tasks, adjuster_of(options)))),
        plain_sum(register_module("plain_sum", htl::GradientFork<htl::Sum>(tasks))),
        graph(register_module("graph", htl::TaskGraph<>(tasks, graph_options_of(options, embedding->width(), numeric_width)))) {}

  htl::TaskOutputs forward(const htl::Batch& batch, Gradients gradients = Gradients::summed) {
    htl::Lookup lookup = embedding->lookup(batch);
    if (gradients == Gradients::summed) return graph->forward(lookup.values(), batch.numeric);
    return graph->forward(gradients == Gradients::adjusted ? adjuster->split(lookup) : plain_sum->split(lookup), batch.numeric);
  }

  htl::FieldEmbedding embedding{nullptr};
  htl::GradientFork<htl::AnyWeighting> adjuster{nullptr};
  htl::GradientFork<htl::Sum> plain_sum{nullptr};
  htl::TaskGraph<> graph{nullptr};
};
TORCH_MODULE(HtlNet);

}  // namespace htlnet
