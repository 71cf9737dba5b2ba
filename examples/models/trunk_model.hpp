// SPDX-License-Identifier: Apache-2.0
/// @file trunk_model.hpp
/// @brief TrunkModel: dense layers that the tasks share between the embeddings and their towers: MMoE, PLE, AdaTT, cross-stitch, with or without HTLNet's
/// transfer on top.
#pragma once

#include "model.hpp"

#include <htl/transfer/task_graph.hpp>

namespace models {

/// embeddings → trunk → a representation a task → towers. The adjuster sees the tasks' exact gradients of what they share of the trunk, and of the embeddings.
/// @tparam Trunk a module holder: forward(parts) gives T representations, representation_width() their width
template <class Trunk>
class TrunkModel final : public Model {
 public:
  TrunkModel(const ModelOptions& options, Trunk layers, htl::Shared of_trunk, htl::Transfer transfer)
      : Model(options),
        trunk(register_module("trunk", std::move(layers))),
        graph(register_module("graph", htl::TaskGraph<>(options.tasks, htl::TaskGraphOptions(trunk->representation_width())
                                                                           .tower(options.tower_above_trunk)
                                                                           .dropout(options.dropout)
                                                                           .generator(options.generator)
                                                                           .transfer(transfer)))) {
    shared_ = std::move(of_trunk.add(inputs).others_summed());
  }

  htl::TaskOutputs forward(const htl::Batch& batch) override {
    const std::vector<at::Tensor> known = trunk->forward(parts_of(batch));
    if (!adjusts()) return graph->forward(known);
    std::vector<at::Tensor> views = fork->split(at::cat(known, 1));  // one tensor below which all is shared
    const int64_t width = trunk->representation_width();
    for (size_t t = 0; t < views.size(); ++t) views[t] = views[t].narrow(1, static_cast<int64_t>(t) * width, width);
    return graph->forward(views);
  }

  Trunk trunk;
  htl::TaskGraph<> graph{nullptr};
};

}  // namespace models
