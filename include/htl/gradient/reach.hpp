// SPDX-License-Identifier: Apache-2.0
/// @file reach.hpp
/// @brief Reach: where the task gradients of a step arrive, and how many passes bring them there apart.
#pragma once

#include <htl/gradient/fork.hpp>

#include <algorithm>
#include <set>
#include <utility>
#include <vector>

namespace htl::inline v0_1_0::detail {

/// One use of one fork that the losses reach.
struct ActiveCall {
  size_t fork;
  c10::intrusive_ptr<ForkCall> call;
  std::shared_ptr<torch::autograd::Node> node;
  torch::autograd::Edge to_base = {};  // representation form: where the node led

  bool is_representation() const { return call->base.defined(); }
  /// Lets passes end at the fork: below it backward() goes on by itself.
  void cut() { std::swap(node->next_edges().front(), to_base); }
  /// Undoes cut().
  void join() {
    if (to_base.function) cut();
  }
};

/// A differentiable lookup of a shared table, and the fork that sees it.
struct SharedLookup {
  c10::intrusive_ptr<LookupCall> lookup;
  size_t fork;
};

/// A linear layer of ours whose weight is a shared parameter that nothing else reaches: its task gradients can stay factors.
struct SharedLinear {
  size_t parameter;
  torch::autograd::Node* node;
};

/// Where a task's gradient arrives: a view of calls[index], lookups[index], or the shared parameter of that index.
struct Point {
  enum class Kind { view, lookup, parameter } kind;
  size_t index;
  int64_t view = -1;
};

/// Where the gradients of the losses arrive.
struct Reach {
  std::vector<ActiveCall> calls;
  std::vector<SharedLookup> lookups;
  std::vector<c10::intrusive_ptr<LookupCall>> beside;  // lookups of tables that no fork sees
  std::vector<Point> points;
  std::vector<std::set<size_t>> points_of_task;
  std::vector<SharedLinear> linears;
  std::vector<std::vector<size_t>> levels;  // with shared(): split representations from top to bottom; what one comes from lies in a later level
};

/// Groups tasks so that no two of a group arrive at the same point: one backward pass a group.
inline std::vector<std::vector<size_t>> colour(const std::vector<std::set<size_t>>& points) {
  std::vector<std::vector<size_t>> passes;
  std::vector<std::set<size_t>> taken;
  for (size_t t = 0; t < points.size(); ++t) {
    size_t p = 0;
    const auto overlaps = [&](const std::set<size_t>& others) {
      return std::any_of(points[t].begin(), points[t].end(), [&](size_t point) { return others.contains(point); });
    };
    while (p < passes.size() && overlaps(taken[p])) ++p;
    if (p == passes.size()) {
      passes.emplace_back();
      taken.emplace_back();
    }
    passes[p].push_back(t);
    taken[p].insert(points[t].begin(), points[t].end());
  }
  return passes;
}

}  // namespace htl::detail
