// SPDX-License-Identifier: Apache-2.0
/// @file walk.hpp
/// @brief The walk over the losses' graphs: which task reaches which view of which fork, and what leads past a fork.
#pragma once

#include <htl/gradient/shared_linears.hpp>
#include <htl/gradient/trace.hpp>

#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/accumulate_grad.h>
#include <torch/csrc/autograd/variable.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <set>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

namespace htl::inline v0_1_0::detail {

template <class = void>
class Walk {
 public:
  using Node = torch::autograd::Node;

  /// @param shared what was named besides the forks' rows, for the one fork; null if nothing was
  Walk(const TaskLosses& losses, const std::vector<std::shared_ptr<ForkState>>& forks, const Shared* shared) : losses_(losses), forks_(forks), shared_(shared) {
    for (size_t f = 0; f < forks.size(); ++f)
      for (const auto& [weak_node, weak_call] : forks[f]->calls) {
        const std::shared_ptr<Node> node = weak_node.lock();
        const c10::intrusive_ptr<ForkCall> call = weak_call.lock();
        if (!node || !call) continue;
        if (alive_.try_emplace(node.get(), alive_calls_.size()).second) alive_calls_.push_back({f, call, node});
        for (const auto& lookup : call->lookups) forked_.push_back(lookup->table);
      }
    if (shared) {
      for (const RowTable& table : shared->tables()) forked_.push_back(table);
      for (size_t p = 0; p < shared->parameters().size(); ++p) {
        leaves_.push_back(torch::autograd::impl::grad_accumulator(shared->parameters()[p].value));
        leaf_numbers_.emplace(leaves_.back().get(), p);
      }
    }
    for (const auto& [name, loss] : losses.values) {
      if (!loss.requires_grad()) {
        traces_.emplace_back();
        continue;
      }
      const auto root = torch::autograd::impl::gradient_edge(loss);
      traces_.push_back(trace({{root.function.get(), root.input_nr}}));
    }
  }

  /// Checks that the losses are one step through each fork and that nothing slips past; numbers where their gradients arrive.
  Reach reach() {
    Reach result;
    const auto add_calls = [&](const Trace& trace) {
      for (const auto& [node, view] : trace.views)
        if (call_of_node_.try_emplace(node, result.calls.size()).second) result.calls.push_back(alive_calls_[alive_.at(node)]);
    };
    for (const Trace& trace : traces_) {
      add_calls(trace);
      add_beside(trace.seen);
    }
    std::vector<Trace> below;
    for (size_t c = 0; c < result.calls.size(); ++c) {  // with shared() those below are added while it runs
      below.emplace_back();
      if (!result.calls[c].is_representation()) continue;
      check_version(*result.calls[c].call);
      if (shared_) {
        below.back() = trace_below(result.calls[c]);
        add_calls(below.back());
        add_beside(below.back().seen);
      } else {
        check_below(result.calls[c], result);
      }
    }
    check_calls(result, below);
    for (size_t c = 0; c < result.calls.size(); ++c) check_tables(result.calls, c, below);
    if (shared_) {
      check_shared_tables(result.calls, below);
      for (const Trace& trace : below) check_named(trace, result.calls);
      result.levels = levels(result.calls, below);
    }

    // points by number: parameters, views call by call, lookups
    for (size_t p = 0; p < leaves_.size(); ++p) result.points.push_back({Point::Kind::parameter, p});
    std::vector<size_t> first_view;
    for (size_t c = 0; c < result.calls.size(); ++c) {
      first_view.push_back(result.points.size());
      const int64_t views = result.calls[c].call->inputs() * static_cast<int64_t>(losses_.values.size());
      for (int64_t view = 0; view < views; ++view) result.points.push_back({Point::Kind::view, c, view});
    }
    const size_t first_lookup = result.points.size();
    std::unordered_map<Node*, size_t> number_of_lookup;
    const auto add_lookup = [&](Node* node) {
      const auto [at, fresh] = number_of_lookup.try_emplace(node, result.lookups.size());
      if (!fresh) return true;
      const c10::intrusive_ptr<LookupCall> lookup = lookup_of(node);
      const std::optional<size_t> fork = fork_of(lookup->data->table, result.calls);
      if (fork) {
        result.points.push_back({Point::Kind::lookup, result.lookups.size()});
        result.lookups.push_back({lookup, *fork});
      } else {
        number_of_lookup.erase(at);
        beside_.insert(node);  // a fork stood on its table in another forward
      }
      return fork.has_value();
    };
    for (const Trace& trace : traces_) {
      std::set<size_t>& points = result.points_of_task.emplace_back();
      for (const auto& [node, view] : trace.views) points.insert(first_view[call_of_node_.at(node)] + static_cast<size_t>(view));
      for (Node* node : trace.lookups)
        if (add_lookup(node)) points.insert(first_lookup + number_of_lookup.at(node));
      points.insert(trace.parameters.begin(), trace.parameters.end());
    }
    for (const Trace& trace : below)
      for (Node* node : trace.lookups) add_lookup(node);
    if (shared_) {
      std::unordered_set<Node*> nodes;
      for (const std::vector<Trace>* traces : std::initializer_list<const std::vector<Trace>*>{&traces_, &below})
        for (const Trace& trace : *traces) nodes.insert(trace.seen.begin(), trace.seen.end());
      result.linears = shared_linears(nodes, leaf_numbers_, shared_->parameters());
    }
    std::vector<Node*> beside(beside_.begin(), beside_.end());
    std::sort(beside.begin(), beside.end(),
              [](const Node* a, const Node* b) { return a->sequence_nr() > b->sequence_nr(); });  // sums don't depend on addresses
    for (Node* node : beside) result.beside.push_back(lookup_of(node));
    return result;
  }

 private:
  /// Keeps the lookups among nodes.
  template <class Nodes>
  void add_beside(const Nodes& nodes) {
    for (Node* node : nodes)
      if (lookup_of(node)) beside_.insert(node);
  }

  /// Whether a node looks up in a table that a fork sees.
  bool looks_up_forked(Node* node) const {
    const c10::intrusive_ptr<LookupCall> lookup = lookup_of(node);
    return lookup && std::any_of(forked_.begin(), forked_.end(), [&](const RowTable& table) { return table.is_same(lookup->data->table); });
  }

  /// By the weight: two RowTables over one weight are one table.
  static bool stands_on(const ForkCall& call, const RowTable& table) {
    return std::any_of(call.lookups.begin(), call.lookups.end(), [&](const auto& lookup) { return lookup->table.weight().is_same(table.weight()); });
  }
  /// The fork that sees a table in this step.
  std::optional<size_t> fork_of(const RowTable& table, const std::vector<ActiveCall>& calls) const {
    for (const ActiveCall& active : calls)
      if (stands_on(*active.call, table)) return active.fork;
    if (shared_ && std::any_of(shared_->tables().begin(), shared_->tables().end(), [&](const RowTable& named) { return named.is_same(table); })) return 0;
    return std::nullopt;
  }

  Trace trace(std::vector<std::pair<Node*, uint32_t>> open) const {
    Trace result;
    std::set<size_t> parameters;
    while (!open.empty()) {
      const auto [node, input] = open.back();
      open.pop_back();
      if (const auto lookup = lookup_of(node)) refuse_rows_of_parameter(node->next_edge(0).function.get(), lookup->data->table);
      if (alive_.contains(node)) {
        result.views.emplace_back(node, input);
      } else if (const auto leaf = leaf_numbers_.find(node); leaf != leaf_numbers_.end()) {
        if (parameters.insert(leaf->second).second) result.parameters.push_back(leaf->second);
      } else if (result.seen.contains(node)) {
        continue;
      } else if (looks_up_forked(node)) {
        result.lookups.push_back(node);
      } else {
        result.seen.insert(node);
        for (const auto& edge : node->next_edges())
          if (edge.function) open.emplace_back(edge.function.get(), edge.input_nr);
      }
    }
    return result;
  }
  /// A weight that is named as a parameter has a dense gradient, and rows of it another one.
  void refuse_rows_of_parameter(Node* leaf, const RowTable& table) const {
    HTL_CHECK(!leaf_numbers_.contains(leaf), "htl::backward: htl::shared() names the weight of table \"", table.name(),
              "\" as a parameter, but it is looked up by rows; name the RowTable as well");
  }
  Trace trace_below(const ActiveCall& active) const {
    std::vector<std::pair<Node*, uint32_t>> open;
    for (const auto& edge : active.node->next_edges())
      if (edge.function) open.emplace_back(edge.function.get(), edge.input_nr);
    return trace(std::move(open));
  }

  static void check_version(const ForkCall& call) {
    HTL_CHECK_STATE(
        call.base._version() == call.version,
        "htl::backward: the tensor that the fork split was changed in place afterwards, and its views with it; change it before the split, or a copy");
  }

  /// No task may reach a node below a fork but through the fork.
  void refuse_paths_to(Node* node, bool rows) const {
    for (size_t t = 0; t < traces_.size(); ++t) {
      const Trace& trace = traces_[t];
      const bool by_lookup = !rows && std::any_of(trace.lookups.begin(), trace.lookups.end(),
                                                  [&](Node* lookup) { return lookup == node || lookup->next_edge(0).function.get() == node; });
      HTL_CHECK(!by_lookup && !trace.seen.contains(node), "htl::backward: the loss of task \"",
                (losses_.values.begin() + static_cast<std::ptrdiff_t>(t))->first, "\" reaches what the fork shares past the fork (at ", node->name(),
                "), so the method would not see all of its gradient; ",
                rows ? "read the table through htl::lookup() or the task's own view"
                     : "read the task's own view instead of the split tensor or what it comes from, or name what is shared by htl::shared()");
    }
  }

  /// Representation form without shared(): everything that the split tensor comes from.
  void check_below(const ActiveCall& active, const Reach& reach) {
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
      HTL_CHECK(!alive_.contains(node),
                "htl::backward: one fork stands below another; split both by one fork and name what is shared, htl::backward(losses, fork, htl::shared(…))");
      refuse_paths_to(node, false);
      add(node);
    }
    for (const ActiveCall& other : reach.calls)
      for (size_t i = 0; i < other.call->lookups.size(); ++i)
        HTL_CHECK(!below.contains(other.node->next_edge(i).function.get()), "htl::backward: table \"", other.call->lookups[i]->table.name(),
                  "\" lies under two forks, directly and below a split tensor; no method would see all of its gradient, split it once");
    add_beside(below);
  }

  /// With shared(): whatever trains below a split tensor must be named, or be summed on purpose.
  void check_named(const Trace& below, const std::vector<ActiveCall>& calls) const {
    if (shared_->are_others_summed()) return;
    const auto refuse = [](const RowTable& table) {
      HTL_CHECK(false, "htl::backward: table \"", table.name(), "\" lies below a split tensor, but htl::shared() does not name it; ",
                "name it, or say others_summed()");
    };
    for (Node* node : below.lookups)  // forked, but perhaps by a split that no loss reaches
      if (const RowTable& table = lookup_of(node)->data->table; !fork_of(table, calls)) refuse(table);
    for (Node* node : below.seen)
      if (const auto lookup = lookup_of(node)) refuse(lookup->data->table);
    for (Node* node : below.seen) {
      const auto* const leaf = dynamic_cast<const torch::autograd::AccumulateGrad*>(node);
      HTL_CHECK(!leaf, "htl::backward: a parameter of shape ", leaf ? shape_of(leaf->variable) : "",
                " lies below a split tensor, but htl::shared() does not name it; name it, or say others_summed()");
    }
  }

  void check_calls(const Reach& reach, const std::vector<Trace>& below) const {
    const auto reaches_shared = [](const Trace& trace) { return !trace.parameters.empty() || !trace.lookups.empty(); };
    const bool sees_nothing = std::all_of(reach.calls.begin(), reach.calls.end(), [](const ActiveCall& active) { return active.is_representation(); });
    HTL_CHECK(!shared_ || !shared_->empty() || !sees_nothing || reach.calls.empty(),
              "htl::backward: nothing that htl::shared() names requires a gradient; name what is trained, or call backward(losses, fork)");
    const bool by_name = shared_ && (std::any_of(traces_.begin(), traces_.end(), reaches_shared) || std::any_of(below.begin(), below.end(), reaches_shared));
    for (size_t f = 0; f < forks_.size(); ++f) {
      bool reached = by_name;
      for (const ActiveCall& active : reach.calls) {
        if (active.fork != f) continue;
        reached = true;
        HTL_CHECK_STATE(!active.call->used, "htl::backward: these losses were already differentiated through this fork; compute the forward again");
      }
      HTL_CHECK_STATE(reached,
                      "htl::backward: no loss reaches the fork; was split() called under no-grad, its views not used, or the losses already differentiated?");
    }
  }

  /// Row form: each table under one fork, and reached through views and lookups only.
  void check_tables(const std::vector<ActiveCall>& calls, size_t c, const std::vector<Trace>& below) const {
    const auto& lookups = calls[c].call->lookups;
    for (size_t i = 0; i < lookups.size(); ++i) {
      Node* const leaf = calls[c].node->next_edge(i).function.get();
      refuse_rows_of_parameter(leaf, lookups[i]->table);
      refuse_paths_to(leaf, true);
      refuse_reading(leaf, lookups[i]->table, below);
      for (size_t other = 0; other < c; ++other) {
        const bool same_fork = calls[other].fork == calls[c].fork;
        for (const auto& known : calls[other].call->lookups)
          HTL_CHECK(!known->table.weight().is_same(lookups[i]->table.weight()) || (same_fork && known->table.is_same(lookups[i]->table)),
                    "htl::backward: ", same_fork ? "two RowTables" : "two forks", " stand on table \"", lookups[i]->table.name(),
                    "\"; no method would see all of its gradient, split its lookups by one fork, of one RowTable");
      }
    }
  }
  void check_shared_tables(const std::vector<ActiveCall>& calls, const std::vector<Trace>& below) const {
    for (const RowTable& table : shared_->tables()) {
      for (const ActiveCall& active : calls)
        for (const auto& lookup : active.call->lookups)
          HTL_CHECK(!lookup->table.weight().is_same(table.weight()) || lookup->table.is_same(table), "htl::backward: two RowTables, \"", lookup->table.name(),
                    "\" under the fork and \"", table.name(), "\" in htl::shared(), stand on one weight; copy one RowTable");
      Node* const leaf = torch::autograd::impl::grad_accumulator(table.weight()).get();
      refuse_paths_to(leaf, true);
      refuse_reading(leaf, table, below);
    }
  }
  static void refuse_reading(const Node* leaf, const RowTable& table, const std::vector<Trace>& below) {
    for (const Trace& trace : below)
      HTL_CHECK(!trace.seen.contains(const_cast<Node*>(leaf)), "htl::backward: what a fork split reads the weight of table \"", table.name(),
                "\" directly, so the method would not see all of its gradient; read the table through htl::lookup()");
  }

  const TaskLosses& losses_;
  const std::vector<std::shared_ptr<ForkState>>& forks_;
  const Shared* shared_;
  std::vector<ActiveCall> alive_calls_;
  std::unordered_map<Node*, size_t> alive_;  // their numbers
  std::unordered_map<Node*, size_t> call_of_node_;
  std::vector<RowTable> forked_;               // tables that forks see
  std::vector<std::shared_ptr<Node>> leaves_;  // of the shared parameters
  std::unordered_map<Node*, size_t> leaf_numbers_;
  std::unordered_set<Node*> beside_;  // lookups that no fork sees
  std::vector<Trace> traces_;
};

}  // namespace htl::detail
