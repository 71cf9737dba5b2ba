// SPDX-License-Identifier: Apache-2.0
/// @file backward.hpp
/// @brief backward: the verb that differentiates task losses through gradient forks, in one pass where their graphs are disjoint.
/// It and what it runs are templates without a parameter that matters, so that a unit that includes this header without calling it does not compile them.
#pragma once

#include <htl/gradient/combine.hpp>

#include <ATen/TensorOperators.h>
#include <ATen/ops/stack.h>

#include <memory>
#include <numeric>

namespace htl::inline v0_1_0 {

/// @brief Options of backward().
struct BackwardOptions {
  /// Keep the task gradients of this micro-batch and ask the method only at the next call without it. Of rows and of what shared() names, the same in each
  /// micro-batch; a split representation alone belongs to its batch.
  bool accumulate = false;
};

/// @brief Any GradientFork, for backward().
class AnyFork {
 public:
  /// @brief From a fork's holder.
  template <GradientMethod W>
  AnyFork(const GradientFork<W>& fork) : state_(fork->state()) {}  // NOLINT(google-explicit-constructor): so that backward(losses, fork) reads
  /// @brief For backward().
  const std::shared_ptr<detail::ForkState>& state() const { return state_; }

 private:
  std::shared_ptr<detail::ForkState> state_;
};

namespace detail {

using ForkStates = std::vector<std::shared_ptr<ForkState>>;

inline ForkStates states_of(const std::vector<AnyFork>& forks) {
  HTL_CHECK(!forks.empty(), "htl::backward: expected at least one fork, got none; without one call losses.sum().backward()");
  ForkStates states;
  for (const AnyFork& fork : forks) {
    HTL_CHECK(std::find(states.begin(), states.end(), fork.state()) == states.end(), "htl::backward: expected each fork once, got one twice");
    states.push_back(fork.state());
  }
  return states;
}

/// Checks one batch's losses; an empty report for each fork.
template <class = void>
std::vector<GradientReport> begin_reports(const TaskLosses& losses, const ForkStates& forks) {
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
  std::vector<GradientReport> reports;
  for (const auto& fork : forks) {
    HTL_CHECK(losses.values.names() == fork->names, "htl::backward: expected losses of the fork's tasks ", quoted(fork->names), ", got ",
              quoted(losses.values.names()));
    GradientReport& report = reports.emplace_back();
    report.tasks = fork->names;
    report.losses = at::stack(detached);
    report.active = losses.active;
  }
  return reports;
}

/// What is left to do once no method can refuse any more: row gradients last, so that a refusal leaves none of them behind.
template <class = void>
void write(const std::vector<std::vector<SharedPart>>& parts, const std::vector<std::vector<Result>>& results) {
  std::vector<at::Tensor> bases, sums;  // one backward below all representations: what they come from may be the same graph
  for (size_t f = 0; f < results.size(); ++f)
    for (size_t p = 0; p < results[f].size(); ++p)
      if (parts[f][p].is_representation && results[f][p].values.defined()) {
        bases.push_back(parts[f][p].dense.tensor);
        sums.push_back(results[f][p].values);
      }
  if (!bases.empty()) torch::autograd::backward(bases, sums);
  for (size_t f = 0; f < results.size(); ++f)
    for (size_t p = 0; p < results[f].size(); ++p) {
      const SharedPart& part = parts[f][p];
      const Result& result = results[f][p];
      if (part.is_table()) {
        add_row_gradient(part.rows.table, result.rows, result.values, result.valid);
      } else if (!part.is_representation && result.values.defined()) {
        at::Tensor& grad = part.dense.tensor.mutable_grad();
        grad = grad.defined() ? grad.add_(result.values) : result.values;  // in place, as LibTorch adds
      }
    }
}

/// Parameters whose gradients wait in the fork must be named again, or these would be lost.
template <class = void>
void check_accumulated(const ForkState& fork, const Shared* shared) {
  for (const SharedPart& part : fork.accumulated.parts) {
    const auto same = [&](const Shared::Parameter& parameter) { return parameter.value.is_same(part.dense.tensor); };
    const bool named = part.is_table() || (shared && std::any_of(shared->parameters().begin(), shared->parameters().end(), same));
    HTL_CHECK(named, "htl::backward: the fork keeps gradients of earlier micro-batches for the shared parameter \"", part.name, "\" of shape ",
              shape_of(part.dense.tensor), ", which this call does not name; name in htl::shared() what the first micro-batch named");
  }
}

template <class = void>
std::vector<GradientReport> differentiate(const TaskLosses& losses, const ForkStates& forks, const Shared* shared, const BackwardOptions& options) {
  std::vector<GradientReport> reports = begin_reports(losses, forks);
  std::vector<std::vector<SharedPart>> parts(forks.size());
  std::vector<std::vector<Result>> results(forks.size());
  for (const auto& fork : forks) check_accumulated(*fork, shared);
  bool numbers = options.accumulate;
  for (const auto& fork : forks) numbers = numbers || fork->sees_gradients() || !fork->accumulated.parts.empty();
  Collector<> collector(losses, forks, shared, /*factors=*/!numbers);
  HTL_CHECK_STATE(
      !options.accumulate || shared || !collector.has_representations(),
      "htl::backward: micro-batches accumulate rows and what htl::shared() names: a split representation's gradients belong to their own batch; name "
      "what is shared, or use accumulate = false");
  collector.run(1.0);
  const c10::AutoGradMode without_graph(false);
  for (size_t f = 0; f < forks.size(); ++f) {
    GradientReport& report = reports[f];
    Accumulated earlier = std::exchange(forks[f]->accumulated, {});
    if (report.active.defined() && (options.accumulate || !earlier.parts.empty()))  // a loss that does not count may be anything
      report.losses = report.losses.where(report.active.to(report.losses.device()), 0.0);
    if (!earlier.parts.empty()) {
      report.active = earlier.active.defined() && report.active.defined() ? earlier.active.logical_or(report.active) : at::Tensor();
      report.losses = earlier.losses + report.losses;
    }
    report.passes = collector.passes();
    parts[f] = collector.parts(f, std::move(earlier.parts));
    if (options.accumulate) {
      forks[f]->accumulated = {std::move(parts[f]), report.active, report.losses};
      continue;
    }
    std::vector<size_t> all(parts[f].size());
    std::iota(all.begin(), all.end(), size_t{0});
    report.gramian = sum_of_gramians(parts[f], all);
  }
  if (!options.accumulate) {
    for (size_t f = 0; f < forks.size(); ++f) check_finite(*forks[f], reports[f]);
    for (size_t f = 0; f < forks.size(); ++f) results[f] = combine(*forks[f], parts[f], {}, reports[f]);
    write(parts, results);
  }
  collector.write_beside();
  return reports;
}

/// One step from two or three batches: the first two give the method their products, the last one the gradients that it weighs.
template <class = void>
GradientReport differentiate_batches(const std::vector<TaskLosses>& batches, const std::shared_ptr<ForkState>& fork, const Shared* shared) {
  const int64_t wanted = fork->batches(), given = static_cast<int64_t>(batches.size());
  HTL_CHECK(wanted > 1, "htl::backward: the fork's method asks for one batch a step, got the losses of ", given, "; call backward(losses, fork) for each");
  HTL_CHECK(given >= 2 && given <= wanted, "htl::backward: expected the losses of 2 to ", wanted, " batches, got ", given);
  HTL_CHECK_STATE(
      fork->accumulated.parts.empty(),
      "htl::backward: the fork keeps gradients of earlier micro-batches, which a step of several batches can't take; differentiate one batch without "
      "options.accumulate first, or call the fork's forget()");
  std::vector<std::unique_ptr<Collector<>>> collectors;
  std::vector<std::vector<SharedPart>> parts;
  std::vector<GradientReport> reports;
  const auto share = 1.0 / static_cast<double>(given);  // what is not shared gets the mean gradient of the batches
  for (const TaskLosses& losses : batches) {
    reports.push_back(begin_reports(losses, {fork}).front());
    collectors.push_back(std::make_unique<Collector<>>(losses, ForkStates{fork}, shared, /*factors=*/false));
    HTL_CHECK(shared || !collectors.back()->has_representations(),
              "htl::backward: gradients at split representations of several batches have no products; name what is shared by htl::shared()");
    collectors.back()->run(share);
    const c10::AutoGradMode without_graph(false);
    parts.push_back(collectors.back()->parts(0, {}));
    check_same_parts(parts.front(), parts.back());
    scale_parts(parts.back(), static_cast<double>(given));
    reports.back().passes = collectors.back()->passes();
    std::vector<size_t> all(parts.back().size());
    std::iota(all.begin(), all.end(), size_t{0});
    reports.back().gramian = sum_of_gramians(parts.back(), all);
    check_finite(*fork, reports.back());
  }
  const c10::AutoGradMode without_graph(false);
  std::vector<at::Tensor> cross;
  for (const PartGroup& group : groups_of(parts.front(), fork->scope)) cross.push_back(cross_products(parts[0], parts[1], group.parts));
  GradientReport& report = reports.back();
  for (const GradientReport& other : reports)  // a task that lacks in one of the batches has no unbiased products
    if (other.active.defined()) report.active = report.active.defined() ? report.active.logical_and(other.active) : other.active;
  std::vector<std::vector<Result>> results;
  results.push_back(combine(*fork, parts.back(), cross, report));
  write({parts.back()}, results);
  for (const auto& collector : collectors) collector->write_beside();
  return report;
}

}  // namespace detail

/// @brief Differentiates the task losses through several forks. See the call with one fork.
///
/// Each fork asks its own method. Split tensors may share a trunk, and one may come from another (not from its views); below them one backward runs.
/// @return a report for each fork
template <class = void>
std::vector<GradientReport> backward(const TaskLosses& losses, const std::vector<AnyFork>& forks, const BackwardOptions& options = {}) {
  return detail::differentiate(losses, detail::states_of(forks), nullptr, options);
}

/// @brief Differentiates the task losses through a fork: looks at who reaches what, then runs **one** backward pass where the tasks' graphs are disjoint.
///
/// Afterwards the parameters above the fork have the plain gradient of the summed losses in `.grad`, and what is shared has Σ w_t G_t (row form: the
/// tables' RowGradient, added to what is there; representation form: `.grad` of the parameters below). G_t is the exact gradient of task t's loss.
///
/// **Overlap**: where two losses come back through the same view (stop-gradient `none`, products of predictions), a colouring of the overlap (DSATUR:
/// the fewest where two suffice) says how many passes it takes, T at worst; what lies below a split tensor is walked once. **Ways around**: another
/// differentiable lookup of the same table (an FM term, a second tower) is counted exactly; any other path past the fork is refused with a sentence. **Cost**:
/// one walk over the losses' graphs (microseconds), the backward pass(es), O(B·F·d·T) for row sums and Gramian. **Synchronisation**: none on CUDA, unless the
/// method says that it does.
/// @param losses one scalar a task, names and order as in the fork's TaskSet; their graphs are consumed
/// @param fork the fork that the losses' model split with
/// @param options micro-batches
/// @return Gramian, weights and losses, unread
/// @throws c10::ValueError on names or shapes that don't match, a path past the fork, or gradients or weights that are not finite (CPU);
///   c10::Error if no loss reaches the fork or the losses were differentiated before
///
/// **After an exception** no RowGradient holds anything of this call, of tables under a fork or beside it. `.grad` of dense parameters may hold a part of it,
/// and the micro-batches that accumulated before are lost in the fork and already added in tables beside it: where you catch it and go on, call zero_grad()
/// of both optimizers. Forks and groups whose methods were asked before another one refused have counted the step.
template <class = void>
GradientReport backward(const TaskLosses& losses, const AnyFork& fork, const BackwardOptions& options = {}) {
  return backward(losses, std::vector<AnyFork>{fork}, options).front();
}

/// @brief The same, exact in what the tasks share below split representations, beside them, or without any split: parameters and tables that are named.
///
///     htl::backward(losses, fork, htl::shared(net->bottom, net->embedding));
///
/// G_t is the gradient of task t's loss with respect to everything named and the rows under the fork's row form, as one vector (or by the fork's scope); its
/// Σ w_t G_t is added to `.grad` of the named parameters and to the tables' RowGradients. **Cost**: the passes above the split tensors, then T products through
/// what lies below them and no further pass; T gradients of the named parameters in memory. Where a loss also reaches a named parameter past the splits (a skip
/// connection, or no split at all), it is counted exactly, in as many passes as the overlap needs: T where everything is shared. A fork's splits may stand on
/// top of each other (PLE's levels): each stretch between them is walked T times.
///
/// Parameters and tables below a split tensor that are not named are refused (`others_summed()` gives them the plain sum). `.grad` of named parameters is taken
/// aside while passes run, so hooks on them see the parts.
/// @throws c10::ValueError, c10::Error as above
template <class = void>
GradientReport backward(const TaskLosses& losses, const AnyFork& fork, const Shared& shared, const BackwardOptions& options = {}) {
  return detail::differentiate(losses, {fork.state()}, &shared, options).front();
}

/// @brief One step of a method that asks for several independent batches (MoDo, SDMGrad): `htl::backward({first, second, third}, fork)`.
///
/// The method sees the products G_s(first) · G_t(second), an unbiased estimate of the expected gradients' Gramian, and its weights apply to the last batch.
/// With two batches the second is both. What is not shared gets the mean of the batches' gradients. A task counts as active if it has a label in each batch.
/// Micro-batches don't accumulate here.
/// @param batches the losses of 2 … method.batches() batches, each from its own forward
/// @param fork the fork that all of them were split with
/// @param shared what the tasks share beside the rows under the fork; nothing for the row form alone
/// @throws c10::ValueError for a method that asks for one batch, another number of batches, or a split representation that shared() says nothing of; as above
template <class = void>
GradientReport backward(const std::vector<TaskLosses>& batches, const AnyFork& fork, const Shared& shared = {}) {
  return detail::differentiate_batches(batches, fork.state(), shared.things() > 0 ? &shared : nullptr);
}

}  // namespace htl
