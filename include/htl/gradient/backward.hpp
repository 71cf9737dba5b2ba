// SPDX-License-Identifier: Apache-2.0
/// @file backward.hpp
/// @brief backward: the verb that differentiates task losses through gradient forks, in as few passes as their graphs allow.
#pragma once

#include <htl/gradient/walk.hpp>

#include <ATen/TensorOperators.h>

#include <torch/csrc/api/include/torch/autograd.h>

namespace htl::inline v0_1_0 {

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

/// Undoes arming however backward ends.
struct Disarm {
  Reach& reach;
  ~Disarm() {
    for (ActiveCall& active : reach.calls) {
      active.call->armed = false;
      active.call->combine = nullptr;
      active.call->task_of_view.clear();
      active.call->collected.clear();
      active.join();
    }
    const auto release = [](LookupCall& lookup) {
      lookup.collecting = false;
      lookup.collected = at::Tensor();
    };
    for (AroundLookup& around : reach.lookups) release(*around.lookup);
    for (const c10::intrusive_ptr<LookupCall>& lookup : reach.beside) release(*lookup);
  }
  Disarm(const Disarm&) = delete;
  Disarm& operator=(const Disarm&) = delete;
  explicit Disarm(Reach& r) : reach(r) {}
};

/// Before any method is asked, so that no memory sees a bad step of another fork.
inline void check_finite(const ForkState& fork, const GradientReport& report) {
  if (!report.gramian.is_cpu()) return;
  for (int64_t t = 0; t < report.gramian.size(0); ++t) {
    const double square = report.gramian.const_data_ptr<double>()[t * report.gramian.size(0) + t];
    HTL_CHECK(std::isfinite(square), "htl::backward: the squared gradient norm of task \"", fork.names[static_cast<size_t>(t)], "\" is ", square,
              " (its loss is ", report.losses[t].item<double>(), "); lower the learning rate, clip, or look for NaN in the batch");
  }
}

inline void ask(ForkState& fork, GradientReport& report) {
  TaskGramian gramian{report.gramian, report.active, fork.cores, fork.cores_after, report.losses.to(at::kDouble), fork.step, fork.generator};
  if (report.active.defined()) gramian.active = report.active.to(report.gramian.device());
  at::Tensor weights = fork.weights(gramian);
  ++fork.step;
  HTL_CHECK(weights.defined() && weights.dim() == 1 && weights.size(0) == gramian.tasks(),
            "htl::backward: expected the method to return one weight for each of ", gramian.tasks(), " tasks, got shape ", shape_of(weights));
  weights = weights.to(report.gramian.device(), at::kDouble).contiguous();
  if (weights.is_cpu()) {
    const double* values = weights.const_data_ptr<double>();
    for (int64_t t = 0; t < weights.numel(); ++t)
      HTL_CHECK(std::isfinite(values[t]), "htl::backward: the method returned the weight ", values[t], " for task \"", fork.names[static_cast<size_t>(t)],
                "\" at the squared gradient norm ", report.gramian[t][t].item<double>(), "; a method must be finite for every finite Gramian");
  }
  report.weights = weights;
}

/// Representation form: Gramian of what came back.
inline void gather_representation(ActiveCall& active, GradientReport& report) {
  std::vector<at::Tensor> gradients;
  for (const std::vector<at::Tensor>& of_task : active.call->collected) gradients.push_back(of_task.front());
  report.gramian = representation_gramian(gradients, active.call->base);
}

/// Σ w_t D_t; undefined where no task came back.
inline at::Tensor combine_representation(const ActiveCall& active, const GradientReport& report) {
  at::Tensor sum;
  for (size_t t = 0; t < active.call->collected.size(); ++t) {
    const at::Tensor& gradient = active.call->collected[t].front();
    if (!gradient.defined()) continue;
    const at::Tensor part = gradient * report.weights[static_cast<int64_t>(t)].to(gradient.scalar_type());
    sum = sum.defined() ? sum + part : part;
  }
  return sum;
}

/// Row form: sums over rows, with those of earlier micro-batches, and Gramian. While micro-batches accumulate the fork keeps the rows.
inline std::vector<TaskRows> gather_rows(ActiveCall& active, GradientReport& report, const BackwardOptions& options) {
  std::vector<LookupGradients> parts = std::move(active.around);
  for (size_t i = 0; i < active.call->lookups.size(); ++i) {
    std::vector<at::Tensor> gradients;
    for (const std::vector<at::Tensor>& of_task : active.call->collected) gradients.push_back(of_task[i]);
    parts.push_back({active.call->lookups[i], std::move(gradients)});
  }
  Accumulated earlier = std::exchange(active.fork->accumulated, {});
  if (!earlier.rows.empty()) {
    report.active = earlier.active.defined() && report.active.defined() ? earlier.active.logical_or(report.active) : at::Tensor();
    report.losses = earlier.losses + report.losses;
  }
  at::Tensor gramian;
  std::vector<TaskRows> rows = gather_task_rows(parts, earlier.rows, gramian);
  if (options.accumulate) {
    active.fork->accumulated = {std::move(rows), report.active, report.losses};
    return {};
  }
  report.gramian = gramian;
  return rows;
}

}  // namespace detail

/// @brief Differentiates the task losses through several forks. See the call with one fork.
///
/// Each fork asks its own method. Split tensors may share a trunk, and one may come from another (not from its views); below them one backward runs.
/// @return a report for each fork
inline std::vector<GradientReport> backward(const TaskLosses& losses, const std::vector<AnyFork>& forks, const BackwardOptions& options = {}) {
  HTL_CHECK(!forks.empty(), "htl::backward: expected at least one fork, got none; without one call losses.sum().backward()");
  const size_t tasks = losses.values.size();
  std::vector<at::Tensor> detached;
  for (const auto& [name, loss] : losses.values) {
    HTL_CHECK(loss.defined() && loss.numel() == 1, "htl::backward: expected the loss of task \"", name, "\" to be one number, got shape ", shape_of(loss));
    detached.push_back(loss.detach().reshape({}));
  }
  HTL_CHECK(!losses.active.defined() ||
                (losses.active.dim() == 1 && losses.active.size(0) == static_cast<int64_t>(tasks) && losses.active.scalar_type() == at::kBool),
            "htl::backward: expected losses.active as one bool for each of ", tasks, " tasks, got ",
            losses.active.defined() ? toString(losses.active.scalar_type()) : "", " of shape ", shape_of(losses.active));
  std::vector<std::shared_ptr<detail::ForkState>> states;
  for (const AnyFork& fork : forks) {
    HTL_CHECK(losses.values.names() == fork.state()->names, "htl::backward: expected losses of the fork's tasks ", quoted(fork.state()->names), ", got ",
              quoted(losses.values.names()));
    HTL_CHECK(std::find(states.begin(), states.end(), fork.state()) == states.end(), "htl::backward: expected each fork once, got one twice");
    states.push_back(fork.state());
  }

  detail::Reach reach = detail::Walk(losses, states).reach();
  const std::vector<std::vector<size_t>> passes = detail::colour(reach.points_of_task);
  const detail::Disarm disarm(reach);
  std::vector<GradientReport> reports(forks.size());
  std::vector<size_t> report_of;
  for (detail::ActiveCall& active : reach.calls) {
    HTL_CHECK_STATE(
        !options.accumulate || !active.call->base.defined(),
        "htl::backward: micro-batches accumulate in the row form only: a representation's gradients belong to its own batch; use accumulate = false");
    active.call->armed = true;
    active.call->collected.assign(tasks, std::vector<at::Tensor>(static_cast<size_t>(active.call->inputs())));
    report_of.push_back(static_cast<size_t>(std::find(states.begin(), states.end(), active.fork) - states.begin()));
    GradientReport& report = reports[report_of.back()];
    report.tasks = active.fork->names;
    report.losses = at::stack(detached);
    report.active = losses.active;
    report.passes = static_cast<int64_t>(passes.size());
    if (!active.call->base.defined()) continue;
    if (passes.size() > 1) {
      active.cut();
    } else {
      active.call->combine = [&active, &report] {
        detail::gather_representation(active, report);
        detail::check_finite(*active.fork, report);
        detail::ask(*active.fork, report);
        return detail::combine_representation(active, report);
      };
    }
  }
  for (detail::AroundLookup& around : reach.lookups) around.lookup->collecting = true;
  for (const auto& lookup : reach.beside) lookup->collecting = true;

  for (const std::vector<size_t>& pass : passes) {
    std::vector<at::Tensor> roots;
    std::vector<size_t> task_of_lookup(reach.lookups.size(), 0);
    for (detail::ActiveCall& active : reach.calls) active.call->task_of_view.assign(tasks * static_cast<size_t>(active.call->inputs()), -1);
    for (const size_t t : pass) {
      const at::Tensor& loss = (losses.values.begin() + static_cast<std::ptrdiff_t>(t))->second;
      if (loss.requires_grad()) roots.push_back(loss);
      for (const size_t number : reach.points_of_task[t]) {
        const detail::Point& point = reach.points[number];
        if (point.view < 0) {
          task_of_lookup[point.index] = t;
        } else {
          reach.calls[point.index].call->task_of_view[static_cast<size_t>(point.view)] = static_cast<int64_t>(t);
        }
      }
    }
    if (roots.empty()) continue;
    torch::autograd::backward(roots, {}, /*retain_graph=*/passes.size() > 1);
    for (size_t i = 0; i < reach.lookups.size(); ++i) {
      detail::AroundLookup& around = reach.lookups[i];
      if (!around.lookup->collected.defined()) continue;
      std::vector<at::Tensor> gradients(tasks);
      gradients[task_of_lookup[i]] = std::exchange(around.lookup->collected, at::Tensor());
      reach.calls[around.call].around.push_back({around.lookup->data, std::move(gradients)});
    }
  }

  const c10::AutoGradMode without_graph(false);
  std::vector<std::vector<detail::TaskRows>> rows(reach.calls.size());
  std::vector<size_t> to_ask;
  for (size_t c = 0; c < reach.calls.size(); ++c) {
    detail::ActiveCall& active = reach.calls[c];
    active.call->used = true;
    if (active.call->combine) continue;
    if (active.call->base.defined()) {
      detail::gather_representation(active, reports[report_of[c]]);
    } else {
      rows[c] = detail::gather_rows(active, reports[report_of[c]], options);
    }
    if (!options.accumulate) to_ask.push_back(c);
  }
  for (const size_t c : to_ask) detail::check_finite(*reach.calls[c].fork, reports[report_of[c]]);
  for (const size_t c : to_ask) detail::ask(*reach.calls[c].fork, reports[report_of[c]]);

  std::vector<at::Tensor> bases, sums;  // one backward below all representations: what they come from may be the same graph
  for (const size_t c : to_ask) {
    detail::ActiveCall& active = reach.calls[c];
    if (!active.call->base.defined()) continue;
    active.join();
    const at::Tensor sum = detail::combine_representation(active, reports[report_of[c]]);
    if (!sum.defined()) continue;
    bases.push_back(active.call->base);
    sums.push_back(sum);
  }
  if (!bases.empty()) torch::autograd::backward(bases, sums);
  // row gradients last: a refusal above leaves none of them behind
  for (size_t c = 0; c < reach.calls.size(); ++c)
    for (const detail::TaskRows& part : rows[c])
      detail::add_row_gradient(part.table, part.rows, detail::combine_rows(part.sums, reports[report_of[c]].weights, part.table.weight().scalar_type()),
                               part.valid);
  for (const auto& lookup : reach.beside)
    if (lookup->collected.defined()) detail::write_row_gradient(*lookup->data, lookup->collected);
  return reports;
}

/// @brief Differentiates the task losses through a fork: looks at who reaches what, then runs **one** backward pass where the tasks' graphs are disjoint.
///
/// Afterwards the parameters above the fork have the plain gradient of the summed losses in `.grad`, and what is shared has Σ w_t G_t (row form: the
/// tables' RowGradient, added to what is there; representation form: `.grad` of the parameters below). G_t is the exact gradient of task t's loss.
///
/// **Overlap**: where two losses come back through the same view (stop-gradient `none`, products of predictions), a colouring of the overlap says how
/// many passes are needed, T at worst; what lies below a split tensor is walked once. **Ways around**: another differentiable lookup of the same table (an FM
/// term, a second tower) is counted exactly; any other path past the fork is refused with a sentence. **Cost**: one walk over the losses' graphs
/// (microseconds), the backward pass(es), O(B·F·d·T) for row sums and Gramian. **Synchronisation**: none on CUDA.
/// @param losses one scalar a task, names and order as in the fork's TaskSet; their graphs are consumed
/// @param fork the fork that the losses' model split with
/// @param options micro-batches
/// @return Gramian, weights and losses, unread
/// @throws c10::ValueError on names or shapes that don't match, a path past the fork, or gradients or weights that are not finite (CPU);
///   c10::Error if no loss reaches the fork or the losses were differentiated before
///
/// **After an exception** no RowGradient holds anything of this call, of tables under a fork or beside it. `.grad` of dense parameters may hold a part of it,
/// and the micro-batches that accumulated before are lost in the fork and already added in tables beside it: where you catch it and go on, call zero_grad()
/// of both optimizers.
inline GradientReport backward(const TaskLosses& losses, const AnyFork& fork, const BackwardOptions& options = {}) {
  return backward(losses, std::vector<AnyFork>{fork}, options).front();
}

}  // namespace htl
