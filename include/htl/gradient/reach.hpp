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

/// Groups tasks so that no two of a group arrive at the same point: one backward pass a group. Finding the fewest groups is NP-hard; this colours next the task
/// with the fewest groups left to it (DSATUR; Brélaz, Communications of the ACM 22, 1979), which is the fewest where two groups suffice, and never more than T.
template <class = void>
std::vector<std::vector<size_t>> colour(const std::vector<std::set<size_t>>& points) {
  const size_t tasks = points.size();
  std::vector<std::vector<size_t>> neighbours(tasks);
  for (size_t t = 0; t < tasks; ++t)
    for (size_t s = 0; s < t; ++s)
      if (std::any_of(points[s].begin(), points[s].end(), [&](size_t point) { return points[t].contains(point); })) {
        neighbours[s].push_back(t);
        neighbours[t].push_back(s);
      }
  std::vector<std::vector<size_t>> passes;
  std::vector<std::set<size_t>> closed(tasks);  // passes that a neighbour is in
  std::vector<bool> placed(tasks, false);
  for (size_t count = 0; count < tasks; ++count) {
    size_t next = tasks;
    for (size_t t = 0; t < tasks; ++t) {
      if (placed[t]) continue;
      const auto urgency = [&](size_t task) { return std::pair(closed[task].size(), neighbours[task].size()); };
      if (next == tasks || urgency(t) > urgency(next)) next = t;
    }
    size_t p = 0;
    while (closed[next].contains(p)) ++p;
    if (p == passes.size()) passes.emplace_back();
    passes[p].push_back(next);
    placed[next] = true;
    for (const size_t neighbour : neighbours[next]) closed[neighbour].insert(p);
  }
  return passes;
}

}  // namespace htl::detail
