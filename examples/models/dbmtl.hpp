// SPDX-License-Identifier: Apache-2.0
/// @file dbmtl.hpp
/// @brief Dbmtl: a shared bottom, a network a task, and relation layers along the graph of tasks (Wang et al., 2019).
#pragma once

#include "model.hpp"

#include <htl/nn/mlp.hpp>
#include <htl/transfer/relation_graph.hpp>

namespace models {

/// embeddings → layers → task networks → relations → outputs.
class Dbmtl final : public Model {
 public:
  explicit Dbmtl(const ModelOptions& options)
      : Model(options),
        bottom(register_module("bottom", htl::Mlp(htl::MlpOptions(part_widths(options), options.trunk).dropout(options.dropout).generator(options.generator)))),
        relations(register_module("relations", htl::RelationGraph(options.tasks, htl::RelationGraphOptions(options.trunk.back())
                                                                                     .task({options.tower_above_trunk.front()})
                                                                                     .relation({options.tower_above_trunk.back()})
                                                                                     .dropout(options.dropout)
                                                                                     .generator(options.generator)))),
        shared_(htl::shared(bottom, embedding)) {}

  htl::TaskOutputs forward(const htl::Batch& batch) override {
    const at::Tensor known = bottom->forward(parts_of(batch));
    return adjusts() ? relations->forward(fork->split(known)) : relations->forward(known);
  }
  void backward(const htl::TaskLosses& losses) override { adjusts() ? void(htl::backward(losses, fork, shared_)) : losses.sum().backward(); }

  htl::Mlp bottom{nullptr};
  htl::RelationGraph relations{nullptr};

 private:
  htl::Shared shared_;
};

}  // namespace models
