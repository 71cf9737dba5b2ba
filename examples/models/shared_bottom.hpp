// SPDX-License-Identifier: Apache-2.0
/// @file shared_bottom.hpp
/// @brief SharedBottom: one network under all towers (Caruana, "Multitask Learning", 1997).
#pragma once

#include "model.hpp"

#include <htl/nn/mlp.hpp>
#include <htl/transfer/task_graph.hpp>

namespace models {

/// embeddings → layers → towers.
class SharedBottom final : public Model {
 public:
  explicit SharedBottom(const ModelOptions& options)
      : Model(options),
        bottom(register_module("bottom", htl::Mlp(htl::MlpOptions(part_widths(options), options.trunk).dropout(options.dropout).generator(options.generator)))),
        graph(register_module("graph", htl::TaskGraph<>(options.tasks, htl::TaskGraphOptions(options.trunk.back())
                                                                           .tower(options.tower_above_trunk)
                                                                           .dropout(options.dropout)
                                                                           .generator(options.generator)
                                                                           .transfer(htl::Transfer::none)))),
        shared_(htl::shared(bottom, embedding)) {}

  htl::TaskOutputs forward(const htl::Batch& batch) override {
    const at::Tensor known = bottom->forward(parts_of(batch));
    return adjusts() ? graph->forward(fork->split(known)) : graph->forward(known);
  }
  void backward(const htl::TaskLosses& losses) override { adjusts() ? void(htl::backward(losses, fork, shared_)) : losses.sum().backward(); }

  htl::Mlp bottom{nullptr};
  htl::TaskGraph<> graph{nullptr};

 private:
  htl::Shared shared_;
};

}  // namespace models
