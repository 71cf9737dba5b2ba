// SPDX-License-Identifier: Apache-2.0
/// @file shared_linears.hpp
/// @brief Which shared parameters are weights of linear layers of ours that nothing else reads, so that their task gradients can stay factors.
#pragma once

#include <htl/gradient/reach.hpp>
#include <htl/gradient/shared.hpp>
#include <htl/nn/linear_parts.hpp>

#include <torch/csrc/autograd/variable.h>

#include <typeinfo>
#include <unordered_map>
#include <unordered_set>
#include <vector>

namespace htl::inline v0_1_0::detail {

/// Linear layers in float or double, without maps, whose weight is a shared parameter without hooks that no other node of the graph reads.
/// @param nodes of the losses' graphs
/// @param leaves numbers of the shared parameters' accumulators
template <class = void>
std::vector<SharedLinear> shared_linears(const std::unordered_set<torch::autograd::Node*>& nodes,
                                         const std::unordered_map<torch::autograd::Node*, size_t>& leaves, const std::vector<Shared::Parameter>& parameters) {
  using LinearNode = torch::autograd::CppNode<LinearPartsFunction>;
  std::vector<int64_t> readers(parameters.size(), 0);
  std::vector<torch::autograd::Node*> layers(parameters.size(), nullptr);
  for (torch::autograd::Node* node : nodes)
    for (size_t e = 0; e < node->num_outputs(); ++e) {
      const auto leaf = leaves.find(node->next_edge(e).function.get());
      if (leaf == leaves.end()) continue;
      ++readers[leaf->second];
      if (e == 0 && typeid(*node) == typeid(LinearNode)) layers[leaf->second] = node;
    }
  std::vector<SharedLinear> result;
  for (size_t p = 0; p < parameters.size(); ++p) {
    if (readers[p] != 1 || !layers[p]) continue;
    const at::Tensor& weight = parameters[p].value;
    if (!torch::autograd::impl::hooks(weight).empty() || torch::autograd::impl::post_acc_grad_hooks(weight)) continue;  // they want to see its gradient
    const at::ScalarType type = weight.scalar_type();
    const std::vector<int64_t> mapped = static_cast<LinearNode*>(layers[p])->ctx_.saved_data["mapped"].toIntVector();
    const bool plain = std::all_of(mapped.begin(), mapped.end(), [](int64_t map) { return map < 0; });
    if (plain && (type == at::kFloat || type == at::kDouble)) result.push_back({p, layers[p]});
  }
  return result;
}

}  // namespace htl::detail
