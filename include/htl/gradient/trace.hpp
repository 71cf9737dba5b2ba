// SPDX-License-Identifier: Apache-2.0
/// @file trace.hpp
/// @brief Trace: what one walk from a loss, or from a split tensor, meets.
#pragma once

#include <htl/gradient/reach.hpp>

#include <torch/csrc/autograd/function.h>

#include <algorithm>
#include <cstdint>
#include <typeinfo>
#include <unordered_set>
#include <utility>
#include <vector>

namespace htl::inline v0_1_0::detail {

/// What a walk meets.
struct Trace {
  std::unordered_set<torch::autograd::Node*> seen;                // none of the following
  std::vector<std::pair<torch::autograd::Node*, int64_t>> views;  // fork nodes and which of their outputs
  std::vector<torch::autograd::Node*> lookups;                    // lookups of tables that forks see
  std::vector<size_t> parameters;                                 // shared parameters
};

/// The lookup whose node this is; null for any other.
inline c10::intrusive_ptr<LookupCall> lookup_of(torch::autograd::Node* node) {
  using LookupNode = torch::autograd::CppNode<LookupFunction>;
  if (typeid(*node) != typeid(LookupNode)) return {};
  return c10::static_intrusive_pointer_cast<LookupCall>(static_cast<LookupNode*>(node)->ctx_.saved_data["call"].toCapsule());
}

/// Split representations in an order in which each comes before all that it comes from.
template <class = void>
std::vector<std::vector<size_t>> levels(const std::vector<ActiveCall>& calls, const std::vector<Trace>& below) {
  std::vector<std::unordered_set<torch::autograd::Node*>> leads_to;
  for (const Trace& trace : below) {
    leads_to.emplace_back();
    for (const auto& [node, view] : trace.views) leads_to.back().insert(node);
  }
  std::vector<size_t> open;
  for (size_t c = 0; c < calls.size(); ++c)
    if (calls[c].is_representation()) open.push_back(c);
  std::vector<std::vector<size_t>> result;
  while (!open.empty()) {
    std::vector<size_t> level, rest;
    for (const size_t c : open) {
      const bool is_below = std::any_of(open.begin(), open.end(), [&](size_t other) { return leads_to[other].contains(calls[c].node.get()); });
      (is_below ? rest : level).push_back(c);
    }
    result.push_back(std::move(level));
    open = std::move(rest);
  }
  return result;
}

}  // namespace htl::detail
