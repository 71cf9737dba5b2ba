// SPDX-License-Identifier: Apache-2.0
/// @file towers.hpp
/// @brief TaskTowers: a tower a task on shared embeddings, and what flows between them: HTLNet on any graph of tasks, or nothing, which is its control.
#pragma once

#include "model.hpp"

#include <htl/transfer/task_graph.hpp>

namespace models {

/// HTLNet (Tang et al., RecSys 2024) with transfer, separate towers without. The embeddings are all that the tasks share: the fork stands on their rows.
class TaskTowers final : public Model {
 public:
  TaskTowers(const ModelOptions& options, htl::Transfer transfer)
      : Model(options),
        graph(register_module("graph", htl::TaskGraph<>(options.tasks, htl::TaskGraphOptions(options.inputs.width())
                                                                           .numeric_width(options.inputs.numeric_width)
                                                                           .tower(options.tower)
                                                                           .dropout(options.dropout)
                                                                           .generator(options.generator)
                                                                           .transfer(transfer)))) {}
  htl::TaskOutputs forward(const htl::Batch& batch) override { return graph->forward(views_of(batch), inputs->numbers(batch)); }

  htl::TaskGraph<> graph{nullptr};
};

}  // namespace models
