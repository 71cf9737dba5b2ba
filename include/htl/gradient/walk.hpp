// SPDX-License-Identifier: Apache-2.0
/// @file walk.hpp
/// @brief The walk over the losses' graphs: which task reaches which view of which fork, what leads past a fork, how many passes that needs.
#pragma once

#include <htl/gradient/fork.hpp>

#include <torch/csrc/autograd/function.h>

#include <functional>
#include <map>
#include <set>
#include <typeinfo>
#include <unordered_map>
#include <unordered_set>

namespace htl::inline v0_1_0::detail {

/// One use of one fork that the losses reach.
struct ActiveCall {
  std::shared_ptr<ForkState> fork;
  c10::intrusive_ptr<ForkCall> call;
  std::shared_ptr<torch::autograd::Node> node;
  std::vector<LookupGradients> around = {};  // gradients that reached the fork's tables past it
  torch::autograd::Edge to_base = {};        // representation form in several passes: where the node led

  /// Lets passes end at the fork: what lies below would be walked in each of them, for nothing.
  void cut() { std::swap(node->next_edges().front(), to_base); }
  /// Undoes cut().
  void join() {
    if (to_base.function) cut();
  }
};

/// A differentiable lookup beside a fork, and the call whose table it reads.
struct AroundLookup {
  c10::intrusive_ptr<LookupCall> lookup;
  size_t call;
};

/// Where a task's gradient arrives: a view of calls[index], or (view < 0) lookups[index].
struct Point {
  size_t index;
  int64_t view;
};

/// Where the gradients of the losses arrive.
struct Reach {
  std::vector<ActiveCall> calls;
  std::vector<AroundLookup> lookups;
  std::vector<c10::intrusive_ptr<LookupCall>> beside;  // lookups of tables that no fork stands on
  std::vector<Point> points;
  std::vector<std::set<size_t>> points_of_task;
};

/// What a walk from one loss meets.
struct Trace {
  std::unordered_set<torch::autograd::Node*> seen;                // neither fork nor lookup
  std::vector<std::pair<torch::autograd::Node*, int64_t>> views;  // fork nodes and which of their outputs
  std::vector<torch::autograd::Node*> lookups;                    // lookups of tables that forks stand on
};

class Walk {
 public:
  using Node = torch::autograd::Node;

  Walk(const TaskLosses& losses, const std::vector<std::shared_ptr<ForkState>>& forks) : losses_(losses), forks_(forks) {
    for (const auto& fork : forks)
      for (const auto& [weak_node, weak_call] : fork->calls) {
        const std::shared_ptr<Node> node = weak_node.lock();
        const c10::intrusive_ptr<ForkCall> call = weak_call.lock();
        if (!node || !call) continue;
        alive_.emplace(node.get(), ActiveCall{fork, call, node});
        for (const auto& lookup : call->lookups) forked_.push_back(lookup->table);
      }
    for (const auto& [name, loss] : losses.values) traces_.push_back(trace(loss));
  }

  /// Checks that the losses are one step through each fork and that nothing slips past; numbers where their gradients arrive.
  Reach reach() {
    Reach result;
    std::unordered_map<Node*, size_t> call_of_node;
    for (const Trace& trace : traces_)
      for (const auto& [node, view] : trace.views)
        if (call_of_node.try_emplace(node, result.calls.size()).second) result.calls.push_back(alive_.at(node));
    for (const Trace& trace : traces_) add_beside(trace.seen);
    for (const ActiveCall& active : result.calls)
      if (active.call->base.defined()) check_below(active, result);
    check_calls(result);
    for (size_t c = 0; c < result.calls.size(); ++c) check_tables(result.calls, c);

    std::map<std::pair<Node*, int64_t>, size_t> numbers;
    for (const Trace& trace : traces_) {
      std::set<size_t>& points = result.points_of_task.emplace_back();
      const auto add = [&](Node* node, int64_t view, size_t index) {
        const auto [at, fresh] = numbers.try_emplace({node, view}, result.points.size());
        if (fresh) result.points.push_back({index, view});
        points.insert(at->second);
        return fresh;
      };
      for (const auto& [node, view] : trace.views) add(node, view, call_of_node.at(node));
      for (Node* node : trace.lookups) {
        const c10::intrusive_ptr<LookupCall> lookup = lookup_of(node);
        bool forked = false;
        for (size_t c = 0; c < result.calls.size(); ++c) {
          if (!stands_on(*result.calls[c].call, lookup->data->table)) continue;
          forked = true;
          if (add(node, -1, result.lookups.size())) result.lookups.push_back({lookup, c});
        }
        if (!forked) beside_.emplace(std::pair(node->sequence_nr(), node), lookup);  // a fork stood on its table in another forward
      }
    }
    for (const auto& [age, lookup] : beside_) result.beside.push_back(lookup);
    return result;
  }

 private:
  /// The lookup whose node this is; null for any other.
  static c10::intrusive_ptr<LookupCall> lookup_of(Node* node) {
    using LookupNode = torch::autograd::CppNode<LookupFunction>;
    if (typeid(*node) != typeid(LookupNode)) return {};
    return c10::static_intrusive_pointer_cast<LookupCall>(static_cast<LookupNode*>(node)->ctx_.saved_data["call"].toCapsule());
  }

  /// Keeps the lookups among nodes.
  template <class Nodes>
  void add_beside(const Nodes& nodes) {
    for (Node* node : nodes)
      if (const auto lookup = lookup_of(node)) beside_.emplace(std::pair(node->sequence_nr(), node), lookup);
  }

  /// Whether a node looks up in a table that a fork stands on.
  bool looks_up_forked(Node* node) const {
    const c10::intrusive_ptr<LookupCall> lookup = lookup_of(node);
    return lookup && std::any_of(forked_.begin(), forked_.end(), [&](const RowTable& table) { return table.is_same(lookup->data->table); });
  }

  /// By the weight: two RowTables over one weight are one table.
  static bool stands_on(const ForkCall& call, const RowTable& table) {
    return std::any_of(call.lookups.begin(), call.lookups.end(), [&](const auto& lookup) { return lookup->table.weight().is_same(table.weight()); });
  }

  Trace trace(const at::Tensor& loss) const {
    Trace result;
    if (!loss.requires_grad()) return result;
    const auto root = torch::autograd::impl::gradient_edge(loss);
    std::vector<std::pair<Node*, uint32_t>> open = {{root.function.get(), root.input_nr}};
    while (!open.empty()) {
      const auto [node, input] = open.back();
      open.pop_back();
      if (alive_.contains(node)) {
        result.views.emplace_back(node, input);
      } else if (looks_up_forked(node)) {
        result.lookups.push_back(node);
      } else if (result.seen.insert(node).second) {
        for (const auto& edge : node->next_edges())
          if (edge.function) open.emplace_back(edge.function.get(), edge.input_nr);
      }
    }
    return result;
  }

  /// No task may reach a node below a fork but through the fork.
  void refuse_paths_to(Node* node, bool rows) const {
    for (size_t t = 0; t < traces_.size(); ++t) {
      const Trace& trace = traces_[t];
      const bool by_lookup = !rows && std::any_of(trace.lookups.begin(), trace.lookups.end(),
                                                  [&](Node* lookup) { return lookup == node || lookup->next_edge(0).function.get() == node; });
      HTL_CHECK(
          !by_lookup && !trace.seen.contains(node), "htl::backward: the loss of task \"", (losses_.values.begin() + static_cast<std::ptrdiff_t>(t))->first,
          "\" reaches what the fork shares past the fork (at ", node->name(), "), so the method would not see all of its gradient; ",
          rows ? "read the table through htl::lookup() or the task's own view" : "read the task's own view instead of the split tensor or what it comes from");
    }
  }

  /// Representation form: everything that the split tensor comes from.
  void check_below(const ActiveCall& active, const Reach& reach) {
    HTL_CHECK_STATE(
        active.call->base._version() == active.call->version,
        "htl::backward: the tensor that the fork split was changed in place afterwards, and its views with it; change it before the split, or a copy");
    std::unordered_set<Node*> below;
    std::vector<Node*> open;
    const auto add = [&](Node* node) {
      for (const auto& edge : node->next_edges())
        if (edge.function) open.push_back(edge.function.get());
    };
    add(active.node.get());
    while (!open.empty()) {
      Node* node = open.back();
      open.pop_back();
      if (!below.insert(node).second) continue;
      HTL_CHECK(!alive_.contains(node), "htl::backward: one fork stands below another; forks on top of each other are not offered, split once");
      refuse_paths_to(node, false);
      add(node);
    }
    for (const ActiveCall& other : reach.calls)
      for (size_t i = 0; i < other.call->lookups.size(); ++i)
        HTL_CHECK(!below.contains(other.node->next_edge(i).function.get()), "htl::backward: table \"", other.call->lookups[i]->table.name(),
                  "\" lies under two forks, directly and below a split tensor; no method would see all of its gradient, split it once");
    add_beside(below);
  }

  void check_calls(const Reach& reach) const {
    for (const auto& fork : forks_) {
      int64_t count = 0;
      for (const ActiveCall& active : reach.calls) {
        if (active.fork != fork) continue;
        ++count;
        HTL_CHECK_STATE(!active.call->used, "htl::backward: these losses were already differentiated through this fork; compute the forward again");
      }
      HTL_CHECK_STATE(count > 0,
                      "htl::backward: no loss reaches the fork; was split() called under no-grad, its views not used, or the losses already differentiated?");
      HTL_CHECK_STATE(count == 1, "htl::backward: the losses reach ", count,
                      " splits of one fork; give it the losses of one batch (options.accumulate joins micro-batches)");
    }
  }

  /// Row form: each table under one fork, and reached through views and lookups only.
  void check_tables(const std::vector<ActiveCall>& calls, size_t c) const {
    const auto& lookups = calls[c].call->lookups;
    for (size_t i = 0; i < lookups.size(); ++i) {
      refuse_paths_to(calls[c].node->next_edge(i).function.get(), true);
      for (size_t other = 0; other < c; ++other)
        HTL_CHECK(!stands_on(*calls[other].call, lookups[i]->table), "htl::backward: two forks stand on table \"", lookups[i]->table.name(),
                  "\"; no method would see all of its gradient, split its lookups by one call");
    }
  }

  const TaskLosses& losses_;
  const std::vector<std::shared_ptr<ForkState>>& forks_;
  std::unordered_map<Node*, ActiveCall> alive_;
  std::vector<RowTable> forked_;                                                                 // tables that forks stand on
  std::map<std::pair<uint64_t, Node*>, c10::intrusive_ptr<LookupCall>, std::greater<>> beside_;  // by age, so that sums don't depend on addresses
  std::vector<Trace> traces_;
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
