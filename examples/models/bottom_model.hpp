// SPDX-License-Identifier: Apache-2.0
/// @file bottom_model.hpp
/// @brief BottomModel: one network that all tasks read: a shared bottom (Caruana, "Multitask Learning", 1997) under towers, or DBMTL under relations.
#pragma once

#include "model.hpp"

#include <htl/nn/mlp.hpp>

namespace models {

/// embeddings → layers → what stands on top. The adjuster sees the tasks' exact gradients of the layers and of the embeddings.
/// @tparam Top a module holder over one view a task: TaskGraph, RelationGraph
template <class Top>
class BottomModel final : public Model {
 public:
  BottomModel(const ModelOptions& options, Top above)
      : Model(options),
        bottom(register_module("bottom", htl::Mlp(htl::MlpOptions(part_widths(options), options.trunk).dropout(options.dropout).generator(options.generator)))),
        top(register_module("top", std::move(above))) {
    shared_ = htl::shared(bottom, inputs);
  }

  htl::TaskOutputs forward(const htl::Batch& batch) override {
    const at::Tensor known = bottom->forward(parts_of(batch));
    return adjusts() ? top->forward(fork->split(known)) : top->forward(known);
  }

  htl::Mlp bottom{nullptr};
  Top top;
};

}  // namespace models
