// SPDX-License-Identifier: Apache-2.0
/// @file model.hpp
/// @brief The reference model: field embeddings, a gradient fork, and towers that pass on what they know. With `shared_embedding` its control.
#pragma once

#include "adjuster.hpp"
#include "parts_by_name.hpp"

#include <htl/balance/balancer.hpp>
#include <htl/embedding/field_embedding.hpp>
#include <htl/gradient/backward.hpp>
#include <htl/transfer/task_graph.hpp>
#include <htl/weighting/sum.hpp>

#include <optional>

namespace htlnet {

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
        graph(register_module("graph", htl::TaskGraph<>(tasks, graph_options_of(options, embedding->width(), numeric_width)))) {
    if (options.balancer != "none") balancer = register_module("balancer", htl::Balancer<htl::AnyBalance>(tasks, balancer_of(options.balancer)));
  }

  htl::TaskOutputs forward(const htl::Batch& batch, Gradients gradients = Gradients::summed) {
    htl::Lookup lookup = embedding->lookup(batch);
    if (gradients == Gradients::summed) return graph->forward(lookup.values(), batch.numeric);
    return graph->forward(gradients == Gradients::adjusted ? adjuster->split(lookup) : plain_sum->split(lookup), batch.numeric);
  }

  htl::FieldEmbedding embedding{nullptr};
  htl::GradientFork<htl::AnyWeighting> adjuster{nullptr};
  htl::GradientFork<htl::Sum> plain_sum{nullptr};
  htl::TaskGraph<> graph{nullptr};
  htl::Balancer<htl::AnyBalance> balancer{nullptr};  // empty without one
};
TORCH_MODULE(HtlNet);

}  // namespace htlnet
