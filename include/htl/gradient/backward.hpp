// SPDX-License-Identifier: Apache-2.0
/// @file backward.hpp
/// @brief backward: the verb that differentiates task losses through gradient forks, in as few passes as their graphs allow.
#pragma once

#include <htl/gradient/fork.hpp>

#include <ATen/ops/ones_like.h>
#include <torch/csrc/api/include/torch/autograd.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/variable.h>

#include <set>
#include <unordered_map>
#include <unordered_set>

namespace htl {

/// @brief Options of backward().
struct BackwardOptions {
  /// Keep the task gradients of this micro-batch and ask the method only at the next call without it. Row form only.
  bool accumulate = false;
};

/// @brief Any GradientFork, for backward().
class AnyFork {
 public:
  /// @brief From a fork's holder.
  template <GramianWeighting W>
  AnyFork(const GradientFork<W>& fork) : state_(fork->state()) {}  // NOLINT(google-explicit-constructor): so that backward(losses, fork) reads
  /// @brief For backward().
  const std::shared_ptr<detail::ForkState>& state() const { return state_; }

 private:
  std::shared_ptr<detail::ForkState> state_;
};

namespace detail {

/// One use of one fork in the losses' graphs.
struct ActiveCall {
  std::shared_ptr<ForkState> fork;
  c10::intrusive_ptr<ForkCall> call;
  std::vector<LookupGradients> around;  // gradients that reached the fork's tables past it
};

/// A node at which the walk stops: a fork, a lookup beside a fork, or something below a fork.
struct Stop {
  enum class Kind { fork, lookup, below } kind;
  size_t index;  // of the call (fork, below) or of the lookup
};

/// Where the gradients of the losses arrive.
struct Reach {
  std::vector<ActiveCall> calls;
  std::vector<std::pair<c10::intrusive_ptr<LookupCall>, size_t>> lookups;  // beside a fork, and the call whose table they share
  std::vector<std::set<size_t>> points;                                   // per task: numbers of views (first) and lookups (after them)
  std::vector<std::pair<size_t, int64_t>> view_of_point;                  // call, view
};

inline std::string past_the_fork(const std::string& task, const std::string& node, bool rows) {
  return "htl::backward: the loss of task \"" + task + "\" reaches what the fork shares past the fork (at " + node + "), so the method would not see all of its gradient; " +
         (rows ? "read the table through htl::lookup() or the task's own view" : "read the task's own view instead of the split tensor or what it comes from");
}

/// Walks from each loss to the forks and around them.
inline Reach find_reach(const TaskLosses& losses, const std::vector<AnyFork>& forks) {
  using torch::autograd::Node;
  Reach reach;
  std::unordered_map<Node*, Stop> stops;
  std::vector<Node*> fork_nodes;
  for (const AnyFork& fork : forks)
    for (const auto& [weak, call] : fork.state()->calls)
      if (const std::shared_ptr<Node> node = weak.lock()) {
        stops[node.get()] = {Stop::Kind::fork, reach.calls.size()};
        fork_nodes.push_back(node.get());
        reach.calls.push_back({fork.state(), call, {}});
      }
  // What lies below: the tables' accumulators and other lookups (row form), or everything the split tensor comes from.
  for (size_t c = 0; c < reach.calls.size(); ++c) {
    const ForkCall& call = *reach.calls[c].call;
    for (const auto& lookup : call.lookups) {
      stops.try_emplace(torch::autograd::impl::grad_accumulator(lookup->table.weight()).get(), Stop{Stop::Kind::below, c});
      for (const auto& [weak, held] : lookup->table.live_lookups())
        if (const std::shared_ptr<Node> node = weak.lock(); node && !stops.contains(node.get())) {
          stops[node.get()] = {Stop::Kind::lookup, reach.lookups.size()};
          reach.lookups.emplace_back(c10::static_intrusive_pointer_cast<LookupCall>(held), c);
        }
    }
    if (!call.base.defined()) continue;
    std::vector<Node*> open = {torch::autograd::impl::gradient_edge(call.base).function.get()};
    while (!open.empty()) {
      Node* node = open.back();
      open.pop_back();
      if (std::find(fork_nodes.begin(), fork_nodes.end(), node) != fork_nodes.end())
        HTL_CHECK(false, "htl::backward: one fork stands below another; forks on top of each other are not offered, split once");
      if (!stops.try_emplace(node, Stop{Stop::Kind::below, c}).second) continue;
      for (const auto& edge : node->next_edges())
        if (edge.function) open.push_back(edge.function.get());
    }
  }

  std::unordered_map<uint64_t, size_t> point_of_view;
  std::vector<std::set<size_t>> lookups_of_task;
  std::vector<std::vector<std::pair<size_t, int64_t>>> views_of_task;
  for (const auto& [name, loss] : losses.values) {
    auto& views = views_of_task.emplace_back();
    auto& lookups = lookups_of_task.emplace_back();
    if (!loss.requires_grad()) continue;
    std::unordered_set<Node*> seen;
    const auto root = torch::autograd::impl::gradient_edge(loss);
    std::vector<std::pair<Node*, uint32_t>> open = {{root.function.get(), root.input_nr}};
    while (!open.empty()) {
      const auto [node, input] = open.back();
      open.pop_back();
      if (const auto stop = stops.find(node); stop != stops.end()) {
        if (stop->second.kind == Stop::Kind::below) HTL_CHECK(false, past_the_fork(name, node->name(), !reach.calls[stop->second.index].call->lookups.empty()));
        if (stop->second.kind == Stop::Kind::lookup) {
          lookups.insert(stop->second.index);
        } else {
          views.emplace_back(stop->second.index, input);
        }
        continue;
      }
      if (!seen.insert(node).second) continue;
      for (const auto& edge : node->next_edges())
        if (edge.function) open.emplace_back(edge.function.get(), edge.input_nr);
    }
  }

  // Number the views that are reached; lookups follow them.
  for (const auto& views : views_of_task)
    for (const auto& [call, view] : views) {
      const uint64_t key = (static_cast<uint64_t>(call) << 32U) | static_cast<uint64_t>(view);
      if (point_of_view.try_emplace(key, reach.view_of_point.size()).second) reach.view_of_point.emplace_back(call, view);
    }
  for (size_t t = 0; t < views_of_task.size(); ++t) {
    auto& points = reach.points.emplace_back();
    for (const auto& [call, view] : views_of_task[t]) points.insert(point_of_view.at((static_cast<uint64_t>(call) << 32U) | static_cast<uint64_t>(view)));
    for (const size_t lookup : lookups_of_task[t]) points.insert(reach.view_of_point.size() + lookup);
  }
  return reach;
}

/// Drops the calls that no loss reaches and refuses what can't be one step.
inline std::vector<char> reached_calls(const Reach& reach, const std::vector<AnyFork>& forks) {
  std::vector<char> reached(reach.calls.size(), 0);
  for (const auto& [call, view] : reach.view_of_point) reached[call] = 1;
  for (const AnyFork& fork : forks) {
    int64_t count = 0;
    for (size_t c = 0; c < reach.calls.size(); ++c)
      if (reached[c] && reach.calls[c].fork == fork.state()) {
        ++count;
        HTL_CHECK_STATE(!reach.calls[c].call->used, "htl::backward: these losses were already differentiated through this fork; compute the forward again");
      }
    HTL_CHECK_STATE(count > 0, "htl::backward: no loss reaches the fork; was split() called under no-grad, its views not used, or the losses already differentiated?");
    HTL_CHECK_STATE(count == 1, "htl::backward: the losses reach ", count, " splits of one fork; give it the losses of one batch (options.accumulate joins micro-batches)");
  }
  return reached;
}

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

/// Undoes arming however backward ends.
struct Disarm {
  Reach& reach;
  ~Disarm() {
    for (ActiveCall& active : reach.calls) {
      active.call->armed = false;
      active.call->combine = nullptr;
      active.call->task_of_view.clear();
      active.call->collected.clear();
    }
    for (auto& [lookup, call] : reach.lookups) {
      lookup->collecting = false;
      lookup->collected = at::Tensor();
    }
  }
  Disarm(const Disarm&) = delete;
  Disarm& operator=(const Disarm&) = delete;
  explicit Disarm(Reach& r) : reach(r) {}
};

inline at::Tensor ask(ForkState& fork, GradientReport& report) {
  TaskGramian gramian{report.gramian, report.active, fork.cores, fork.cores_after, report.losses.to(at::kDouble), fork.step, fork.generator};
  if (report.active.defined()) gramian.active = report.active.to(report.gramian.device());
  at::Tensor weights = fork.weights(gramian);
  ++fork.step;
  HTL_CHECK(weights.defined() && weights.dim() == 1 && weights.size(0) == gramian.tasks(), "htl::backward: expected the method to return one weight for each of ",
            gramian.tasks(), " tasks, got shape ", shape_of(weights));
  weights = weights.to(report.gramian.device(), at::kDouble).contiguous();
  if (weights.is_cpu()) {
    const double* values = weights.const_data_ptr<double>();
    for (int64_t t = 0; t < weights.numel(); ++t)
      HTL_CHECK(std::isfinite(values[t]), "htl::backward: the method returned the weight ", values[t], " for task \"", fork.names[static_cast<size_t>(t)],
                "\"; is a loss or gradient not finite? Its squared gradient norm is ", report.gramian[t][t].item<double>());
  }
  report.weights = weights;
  return weights;
}

}  // namespace detail

/// @brief Differentiates the task losses through several forks. See the call with one fork.
/// @return a report for each fork
inline std::vector<GradientReport> backward(const TaskLosses& losses, const std::vector<AnyFork>& forks, const BackwardOptions& options = {}) {
  HTL_CHECK(!forks.empty(), "htl::backward: expected at least one fork, got none; without one call losses.sum().backward()");
  const size_t tasks = losses.values.size();
  std::vector<at::Tensor> detached;
  for (const auto& [name, loss] : losses.values) {
    HTL_CHECK(loss.defined() && loss.numel() == 1, "htl::backward: expected the loss of task \"", name, "\" to be one number, got shape ", shape_of(loss));
    detached.push_back(loss.detach().reshape({}));
  }
  for (const AnyFork& fork : forks)
    HTL_CHECK(losses.values.names() == fork.state()->names, "htl::backward: expected losses of the fork's tasks ", quoted(fork.state()->names), ", got ",
              quoted(losses.values.names()));

  detail::Reach reach = detail::find_reach(losses, forks);
  const std::vector<char> reached = detail::reached_calls(reach, forks);
  const std::vector<std::vector<size_t>> passes = detail::colour(reach.points);
  const detail::Disarm disarm(reach);
  std::vector<GradientReport> reports(forks.size());
  std::vector<size_t> report_of(reach.calls.size(), 0);
  for (size_t c = 0; c < reach.calls.size(); ++c) {
    detail::ActiveCall& active = reach.calls[c];
    if (!reached[c]) continue;
    HTL_CHECK_STATE(!options.accumulate || !active.call->base.defined(),
                    "htl::backward: micro-batches accumulate in the row form only: a representation's gradients belong to its own batch; use accumulate = false");
    active.call->armed = true;
    active.call->collected.assign(tasks, std::vector<at::Tensor>(static_cast<size_t>(active.call->inputs())));
    for (size_t f = 0; f < forks.size(); ++f)
      if (forks[f].state() == active.fork) report_of[c] = f;
    GradientReport& report = reports[report_of[c]];
    report.tasks = active.fork->names;
    report.losses = at::stack(detached);
    report.active = losses.active;
    report.passes = static_cast<int64_t>(passes.size());
    if (active.call->base.defined() && passes.size() == 1)
      active.call->combine = [&active, &report, tasks] {
        std::vector<at::Tensor> gradients;
        for (size_t t = 0; t < tasks; ++t) gradients.push_back(active.call->collected[t].front());
        report.gramian = detail::representation_gramian(gradients, active.call->base);
        const at::Tensor weights = detail::ask(*active.fork, report);
        at::Tensor sum;
        for (size_t t = 0; t < tasks; ++t) {
          if (!gradients[t].defined()) continue;
          const at::Tensor part = gradients[t] * weights[static_cast<int64_t>(t)].to(gradients[t].scalar_type());
          sum = sum.defined() ? sum + part : part;
        }
        return sum;
      };
  }
  for (auto& [lookup, call] : reach.lookups) lookup->collecting = reached[call] != 0;

  for (size_t p = 0; p < passes.size(); ++p) {
    std::vector<at::Tensor> roots;
    std::vector<int64_t> task_of_lookup(reach.lookups.size(), -1);
    for (detail::ActiveCall& active : reach.calls) active.call->task_of_view.assign(tasks * static_cast<size_t>(active.call->inputs()), -1);
    for (const size_t t : passes[p]) {
      const at::Tensor& loss = (losses.values.begin() + static_cast<std::ptrdiff_t>(t))->second;
      if (loss.requires_grad()) roots.push_back(loss);
      for (const size_t point : reach.points[t]) {
        if (point < reach.view_of_point.size()) {
          const auto& [call, view] = reach.view_of_point[point];
          reach.calls[call].call->task_of_view[static_cast<size_t>(view)] = static_cast<int64_t>(t);
        } else {
          task_of_lookup[point - reach.view_of_point.size()] = static_cast<int64_t>(t);
        }
      }
    }
    if (roots.empty()) continue;
    torch::autograd::backward(roots, {}, /*retain_graph=*/passes.size() > 1);
    for (size_t i = 0; i < reach.lookups.size(); ++i) {
      auto& [lookup, call] = reach.lookups[i];
      if (!lookup->collected.defined()) continue;
      std::vector<at::Tensor> gradients(tasks);
      gradients[static_cast<size_t>(task_of_lookup[i])] = std::exchange(lookup->collected, at::Tensor());
      reach.calls[call].around.push_back({lookup->data, std::move(gradients)});
    }
  }

  const c10::AutoGradMode without_graph(false);
  for (size_t c = 0; c < reach.calls.size(); ++c) {
    detail::ActiveCall& active = reach.calls[c];
    if (!reached[c]) continue;
    active.call->used = true;
    GradientReport& report = reports[report_of[c]];
    if (active.call->base.defined()) {
      if (active.call->combine) continue;
      active.call->combine = nullptr;
      std::vector<at::Tensor> gradients;
      for (size_t t = 0; t < tasks; ++t) gradients.push_back(active.call->collected[t].front());
      report.gramian = detail::representation_gramian(gradients, active.call->base);
      const at::Tensor weights = detail::ask(*active.fork, report);
      at::Tensor sum = at::zeros_like(active.call->base);
      for (size_t t = 0; t < tasks; ++t)
        if (gradients[t].defined()) sum += gradients[t] * weights[static_cast<int64_t>(t)].to(sum.scalar_type());
      torch::autograd::backward({active.call->base}, {sum});
      continue;
    }
    std::vector<detail::LookupGradients> parts = std::move(active.around);
    for (size_t i = 0; i < active.call->lookups.size(); ++i) {
      std::vector<at::Tensor> gradients;
      for (size_t t = 0; t < tasks; ++t) gradients.push_back(active.call->collected[t][i]);
      parts.push_back({active.call->lookups[i], std::move(gradients)});
    }
    at::Tensor gramian;
    std::vector<detail::TaskRows> rows = detail::gather_task_rows(parts, active.fork->accumulated, gramian);
    if (options.accumulate) {
      active.fork->accumulated = std::move(rows);
      continue;
    }
    active.fork->accumulated.clear();
    report.gramian = gramian;
    const at::Tensor weights = detail::ask(*active.fork, report);
    for (const detail::TaskRows& part : rows)
      detail::add_row_gradient(part.table, part.rows, detail::combine_rows(part.sums, weights, part.table.weight().scalar_type()), part.valid);
  }
  return reports;
}

/// @brief Differentiates the task losses through a fork: looks at who reaches what, then runs **one** backward pass where the tasks' graphs are disjoint.
///
/// Afterwards the parameters above the fork have the plain gradient of the summed losses in `.grad`, and what is shared has Σ w_t G_t (row form: the
/// tables' RowGradient, added to what is there; representation form: `.grad` of the parameters below). G_t is the exact gradient of task t's loss.
///
/// **Overlap**: where two losses come back through the same view (stop-gradient `none`, products of predictions), a colouring of the overlap says how
/// many passes are needed; T at worst. **Ways around**: another differentiable lookup of the same table (an FM term, a second tower) is counted exactly;
/// any other path past the fork is refused with a sentence. **Cost**: one walk over the losses' graphs (microseconds), the backward pass(es), O(B·F·d·T)
/// for row sums and Gramian. **Synchronisation**: none on CUDA.
/// @param losses one scalar a task, names and order as in the fork's TaskSet; their graphs are consumed
/// @param fork the fork that the losses' model split with
/// @param options micro-batches
/// @return Gramian, weights and losses, unread
/// @throws c10::ValueError on names or shapes that don't match, a path past the fork, or weights of the wrong size or not finite (CPU);
///   c10::Error if no loss reaches the fork or the losses were differentiated before
inline GradientReport backward(const TaskLosses& losses, const AnyFork& fork, const BackwardOptions& options = {}) {
  return backward(losses, std::vector<AnyFork>{fork}, options).front();
}

}  // namespace htl
