// SPDX-License-Identifier: Apache-2.0
/// @file combine.hpp
/// @brief From task gradients to the shared gradient: Gramians by scope, the method's answer, and where it is written.
#pragma once

#include <htl/gradient/collect.hpp>

#include <ATen/ops/arange.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros_like.h>

#include <cmath>
#include <map>
#include <string>
#include <utility>
#include <vector>

namespace htl::inline v0_1_0::detail {

/// Parts that the method sees as one vector.
struct PartGroup {
  std::string name;
  std::vector<size_t> parts;
};

template <class = void>
std::vector<PartGroup> groups_of(const std::vector<SharedPart>& parts, GradientScope scope) {
  std::vector<PartGroup> result;
  if (scope == GradientScope::whole) {
    result.push_back({"all", {}});
    for (size_t p = 0; p < parts.size(); ++p) result.front().parts.push_back(p);
    return result;
  }
  std::map<size_t, size_t> group_of_thing;
  for (size_t p = 0; p < parts.size(); ++p) {
    const bool with_others = scope == GradientScope::module && !parts[p].is_table() && !parts[p].is_representation;
    if (with_others) {
      const auto [at, fresh] = group_of_thing.try_emplace(parts[p].thing, result.size());
      if (fresh) result.push_back({parts[p].name.substr(0, parts[p].name.find('.')), {}});
      result[at->second].parts.push_back(p);
    } else {
      result.push_back({parts[p].name, {p}});
    }
  }
  std::map<std::string, int> seen;
  for (PartGroup& group : result)
    if (const int number = ++seen[group.name]; number > 1) group.name += "#" + std::to_string(number);  // tables need no name, and then share one
  return result;
}

template <class = void>
at::Tensor sum_of_gramians(const std::vector<SharedPart>& parts, const std::vector<size_t>& which) {
  at::Tensor sum;
  for (const size_t p : which) sum = sum.defined() ? sum + parts[p].gramian : parts[p].gramian;
  return sum;
}

/// Before any method is asked, so that no memory sees a bad step of another fork.
template <class = void>
void check_finite(const ForkState& fork, const GradientReport& report) {
  if (!report.gramian.is_cpu()) return;
  for (int64_t t = 0; t < report.gramian.size(0); ++t) {
    const double square = report.gramian.const_data_ptr<double>()[t * report.gramian.size(0) + t];
    HTL_CHECK(std::isfinite(square), "htl::backward: the squared gradient norm of task \"", fork.names[static_cast<size_t>(t)], "\" is ", square,
              " (its loss is ", report.losses[t].item<double>(), "); lower the learning rate, clip, or look for NaN in the batch");
  }
  const at::Tensor losses = report.losses.to(at::kCPU, at::kDouble);
  for (int64_t t = 0; t < losses.size(0); ++t) {
    const double loss = losses.const_data_ptr<double>()[t];
    HTL_CHECK(std::isfinite(loss) || (report.active.defined() && !report.active[t].item<bool>()), "htl::backward: the loss of task \"",
              fork.names[static_cast<size_t>(t)], "\" is ", loss, "; where a batch has no label of a task, say so by TaskLosses::active");
  }
}

template <class = void>
at::Tensor checked_weights(const ForkState& fork, const at::Tensor& gramian, at::Tensor weights) {
  const int64_t tasks = gramian.size(0);
  HTL_CHECK(weights.defined() && weights.dim() == 1 && weights.size(0) == tasks, "htl::backward: expected the method to return one weight for each of ", tasks,
            " tasks, got shape ", shape_of(weights));
  weights = weights.to(gramian.device(), at::kDouble).contiguous();
  if (weights.is_cpu()) {
    const double* values = weights.const_data_ptr<double>();
    for (int64_t t = 0; t < tasks; ++t)
      HTL_CHECK(std::isfinite(values[t]), "htl::backward: the method returned the weight ", values[t], " for task \"", fork.names[static_cast<size_t>(t)],
                "\" at the squared gradient norm ", gramian[t][t].item<double>(), "; a method must be finite for every finite Gramian");
  }
  return weights;
}

/// A part as methods see it that act on single numbers.
template <class = void>
TaskGradients::Part seen_part(const SharedPart& part, int64_t tasks) {
  if (part.is_table()) return {part.name, part.rows.sums, part.rows.rows, part.rows.valid, part.rows.table.rows()};
  const at::Tensor& tensor = part.dense.tensor;
  std::vector<at::Tensor> rows;
  for (const at::Tensor& gradient : part.dense.gradients) rows.push_back((gradient.defined() ? gradient : at::zeros_like(tensor)).reshape({-1}));
  at::Tensor values = at::stack(rows).view({1, tasks, -1});
  if (values.scalar_type() != at::kDouble) values = values.to(at::kFloat);
  return {.name = part.name, .values = std::move(values), .of_batch = part.is_representation};
}

/// What is written: rows of a table, or the gradient of a tensor (undefined where no task came back).
struct Result {
  at::Tensor values, rows, valid;
};

/// What an aggregator made of a part, of the part's shape and type and with a storage of its own: what a method remembers is not to be clipped or cleared.
/// @param squares gets ‖gradient‖²
template <class = void>
Result checked_result(const SharedPart& part, const SharedGradient::Part& made, std::vector<at::Tensor>& squares) {
  const at::Tensor& like = part.is_table() ? part.rows.table.weight() : part.dense.tensor;
  const int64_t columns = part.is_table() ? part.rows.table.dim() : like.numel();
  const int64_t rows = made.rows.defined() ? made.rows.numel() : part.is_table() ? part.rows.table.rows() : 1;
  HTL_CHECK(made.values.defined() && made.values.dim() == 2 && made.values.size(0) == rows && made.values.size(1) == columns,
            "htl::backward: expected the method's gradient of \"", part.name, "\" as [", rows, ", ", columns, "], got shape ", shape_of(made.values));
  HTL_CHECK(!made.rows.defined() || (part.is_table() && made.rows.dim() == 1 && made.rows.scalar_type() == at::kLong),
            "htl::backward: expected the rows of the method's gradient of \"", part.name, part.is_table() ? "\" as [A] int64, got " : "\" undefined, got ",
            toString(made.rows.scalar_type()), " of shape ", shape_of(made.rows));
  const at::Tensor square = squares.emplace_back(made.values.to(at::kDouble).square().sum());
  if (square.is_cpu())
    HTL_CHECK(std::isfinite(square.item<double>()), "htl::backward: the method's gradient of \"", part.name, "\" has the squared norm ", square.item<double>(),
              "; a method must be finite for finite task gradients");
  at::Tensor values = made.values.to(like.scalar_type());
  if (values.is_alias_of(made.values) && (made.values.use_count() > 1 || made.values.storage().use_count() > 1)) values = values.clone();
  if (!part.is_table()) return {values.reshape(like.sizes()), {}, {}};
  return {values, made.rows.defined() ? made.rows : at::arange(rows, values.options().dtype(at::kLong)), made.valid};
}

/// Whether the method has a memory that belongs to single tensors, which are told apart by their order.
inline bool remembers_parts(ForkState& fork) { return (fork.scope != GradientScope::whole || fork.sees_gradients()) && fork.remembers(); }

template <class = void>
std::vector<std::string> descriptions_of(const std::vector<SharedPart>& parts) {
  std::vector<std::string> result;
  for (const SharedPart& part : parts)
    result.push_back(part.name + (part.is_representation ? " of a batch" : " " + shape_of(part.is_table() ? part.rows.table.weight() : part.dense.tensor)));
  return result;
}

/// Such a memory must get the same tensors in every step.
template <class = void>
void check_known_parts(ForkState& fork, const std::vector<SharedPart>& parts, size_t groups) {
  if (!remembers_parts(fork)) return;
  const std::vector<std::string> now = descriptions_of(parts);
  HTL_CHECK((fork.known_parts.empty() || fork.known_parts == now) && (fork.memories() == 0 || fork.memories() == groups),
            "htl::backward: the fork's method remembers what it saw of each shared tensor; expected those of the steps before, ",
            fork.known_parts.empty() ? std::to_string(fork.memories()) + " in number" : quoted(fork.known_parts), ", got ", quoted(now),
            "; split the same lookups in the same order in each forward, or name the tables in htl::shared(), or call the fork's forget()");
}

/// Asks the method, group by group, and combines. The order of results is that of the parts.
template <class = void>
std::vector<Result> combine(ForkState& fork, const std::vector<SharedPart>& parts, const std::vector<at::Tensor>& cross, GradientReport& report) {
  std::vector<Result> results(parts.size());
  const std::vector<PartGroup> groups = groups_of(parts, fork.scope);
  const int64_t tasks = report.gramian.size(0);
  const at::Tensor losses = report.losses.to(at::kDouble), active = report.active.defined() ? report.active.to(report.gramian.device()) : at::Tensor();
  std::vector<at::Tensor> squares;
  check_known_parts(fork, parts, groups.size());
  for (size_t g = 0; g < groups.size(); ++g) {
    TaskGramian gramian{.matrix = groups.size() == 1 ? report.gramian : sum_of_gramians(parts, groups[g].parts),
                        .active = active,
                        .cross = cross.empty() ? at::Tensor() : cross[g],
                        .cores = fork.cores,
                        .cores_after = fork.cores_after,
                        .losses = losses,
                        .step = fork.step,
                        .generator = fork.generator};
    report.groups.push_back({groups[g].name, gramian.matrix, {}});
    at::Tensor& weights = report.groups.back().weights;
    if (fork.sees_gradients()) {
      TaskGradients gradients;
      gradients.gramian = gramian;
      for (const size_t p : groups[g].parts) gradients.parts.push_back(seen_part(parts[p], tasks));
      SharedGradient shared = fork.aggregate(g, gradients);
      HTL_CHECK(shared.parts.size() == groups[g].parts.size(), "htl::backward: expected the method to return the gradient of ", groups[g].parts.size(),
                " parts, got ", shared.parts.size());
      weights = shared.weights;
      for (size_t i = 0; i < shared.parts.size(); ++i) results[groups[g].parts[i]] = checked_result(parts[groups[g].parts[i]], shared.parts[i], squares);
    } else {
      weights = checked_weights(fork, gramian.matrix, fork.weights(g, gramian));
      if (!cross.empty() && active.defined()) weights = weights.where(active, 0.0);  // its gradient in the last batch may not be 0
      if (groups.size() > 1) squares.push_back(weights.dot(gramian.matrix.mv(weights)));
      for (const size_t p : groups[g].parts) {
        if (parts[p].is_table()) {
          const auto& [table, rows, valid, sums, own] = parts[p].rows;
          results[p] = {combine_rows(sums, weights, table.weight().scalar_type()), rows, valid};
        } else {
          results[p] = {parts[p].dense.combine(weights), {}, {}};
        }
      }
    }
  }
  ++fork.step;
  if (fork.known_parts.empty() && remembers_parts(fork)) fork.known_parts = descriptions_of(parts);
  report.fallbacks = fork.fallbacks();
  if (groups.size() == 1) report.weights = report.groups.front().weights;
  if (!squares.empty()) report.combined_square = at::stack(squares).sum();
  return results;
}

}  // namespace htl::detail
