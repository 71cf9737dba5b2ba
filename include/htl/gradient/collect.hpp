// SPDX-License-Identifier: Apache-2.0
/// @file collect.hpp
/// @brief The passes of one step: from the losses to the forks, and below split representations task by task; what comes back, part by part.
#pragma once

#include <htl/gradient/walk.hpp>

#include <ATen/ops/empty.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/api/include/torch/autograd.h>

namespace htl::inline v0_1_0::detail {

inline torch::autograd::AutogradContext& linear_context(const SharedLinear& linear) {
  return static_cast<torch::autograd::CppNode<LinearPartsFunction>*>(linear.node)->ctx_;
}

/// Undoes arming however backward ends.
struct Disarm {
  explicit Disarm(Reach& r) : reach(r) {}
  Disarm(const Disarm&) = delete;
  Disarm& operator=(const Disarm&) = delete;
  ~Disarm() {
    for (ActiveCall& active : reach.calls) {
      active.call->armed = false;
      active.call->task_of_view.clear();
      active.call->collected.clear();
      active.join();
    }
    const auto release = [](LookupCall& lookup) {
      lookup.collecting = false;
      lookup.collected = at::Tensor();
    };
    for (const SharedLinear& linear : reach.linears) linear_context(linear).saved_data.erase("capture");
    for (const SharedLookup& shared : reach.lookups) release(*shared.lookup);
    for (const c10::intrusive_ptr<LookupCall>& lookup : reach.beside) release(*lookup);
  }
  Reach& reach;
};

/// Takes `.grad` of shared parameters aside while passes run, so that each pass's gradient can be read from it; gives it back however the step ends.
class ParameterGradients {
 public:
  explicit ParameterGradients(const Shared* shared) {
    if (!shared) return;
    for (const Shared::Parameter& parameter : shared->parameters()) {
      parameters_.push_back(parameter.value);
      earlier_.push_back(std::exchange(parameters_.back().mutable_grad(), at::Tensor()));
    }
  }
  ParameterGradients(const ParameterGradients&) = delete;
  ParameterGradients& operator=(const ParameterGradients&) = delete;
  ~ParameterGradients() {
    for (size_t p = 0; p < parameters_.size(); ++p) parameters_[p].mutable_grad() = earlier_[p];
  }
  size_t size() const { return parameters_.size(); }
  /// What the last pass left; undefined where it did not arrive.
  at::Tensor take(size_t p) {
    at::Tensor gradient = std::exchange(parameters_[p].mutable_grad(), at::Tensor());
    HTL_CHECK(!gradient.defined() || !gradient.is_sparse(), "htl::backward: the shared parameter of shape ", shape_of(parameters_[p]),
              " got a sparse gradient; look it up by htl::lookup(htl::RowTable(weight), …), and name the table");
    return gradient;
  }

 private:
  std::vector<at::Tensor> parameters_, earlier_;
};

/// Everything that one batch's passes bring back.
template <class = void>
class Collector {
 public:
  /// @param factors whether task gradients of linear layers may stay factors: not where somebody wants their numbers
  Collector(const TaskLosses& losses, const std::vector<std::shared_ptr<ForkState>>& forks, const Shared* shared, bool factors)
      : losses_(losses),
        shared_(shared),
        tasks_(losses.values.size()),
        reach_(Walk<>(losses, forks, shared).reach()),
        disarm_(reach_),
        passes_(colour(reach_.points_of_task)),
        around_(reach_.lookups.size(), std::vector<at::Tensor>(tasks_)) {
    for (size_t f = 0; f < forks.size(); ++f) check_one_device(f);
    for (ActiveCall& active : reach_.calls) {
      active.call->armed = true;
      active.call->collected.assign(tasks_, std::vector<at::Tensor>(static_cast<size_t>(active.call->inputs())));
      if (active.is_representation()) active.cut();
    }
    for (const SharedLookup& shared_lookup : reach_.lookups) shared_lookup.lookup->collecting = true;
    for (const auto& lookup : reach_.beside) lookup->collecting = true;
    if (!factors) reach_.linears.clear();
    for (const SharedLinear& linear : reach_.linears) {
      captures_.push_back(c10::make_intrusive<LinearCapture>());
      linear_context(linear).saved_data["capture"] = c10::IValue::make_capsule(captures_.back());
      LinearTasks& tasks = *linear_tasks_.emplace_back(std::make_shared<LinearTasks>());
      tasks.weight = shared->parameters()[linear.parameter].value;
      tasks.deltas.resize(tasks_);
    }
  }

  const Reach& reach() const { return reach_; }
  int64_t passes() const { return static_cast<int64_t>(passes_.size()); }
  bool has_representations() const {
    return std::any_of(reach_.calls.begin(), reach_.calls.end(), [](const ActiveCall& active) { return active.is_representation(); });
  }

  /// Runs the passes; each loss starts with the cotangent `factor`.
  void run(double factor) {
    ParameterGradients gradients(shared_);
    of_parameter_.assign(gradients.size(), std::vector<at::Tensor>(tasks_));
    const bool below = !reach_.levels.empty();
    for (const std::vector<size_t>& pass : passes_) {
      std::vector<at::Tensor> roots, cotangents;
      std::vector<size_t> task_of_lookup(reach_.lookups.size(), 0), task_of_parameter(gradients.size(), 0);
      for (ActiveCall& active : reach_.calls) active.call->task_of_view.assign(tasks_ * static_cast<size_t>(active.call->inputs()), -1);
      for (const size_t t : pass) {
        const at::Tensor& loss = (losses_.values.begin() + static_cast<std::ptrdiff_t>(t))->second;
        if (loss.requires_grad()) {
          roots.push_back(loss);
          if (factor != 1.0) cotangents.push_back(at::full_like(loss, factor));
        }
        for (const size_t number : reach_.points_of_task[t]) {
          const Point& point = reach_.points[number];
          switch (point.kind) {
            case Point::Kind::view:
              reach_.calls[point.index].call->task_of_view[static_cast<size_t>(point.view)] = static_cast<int64_t>(t);
              break;
            case Point::Kind::lookup:
              task_of_lookup[point.index] = t;
              break;
            case Point::Kind::parameter:
              task_of_parameter[point.index] = t;
          }
        }
      }
      if (roots.empty()) continue;
      torch::autograd::backward(roots, cotangents, /*retain_graph=*/below || &pass != &passes_.back());
      take(
          gradients, [&](size_t l) { return task_of_lookup[l]; }, [&](size_t p) { return task_of_parameter[p]; });
    }
    for (size_t level = 0; level < reach_.levels.size(); ++level)
      for (size_t t = 0; t < tasks_; ++t) run_below(gradients, level, t);
    for (ActiveCall& active : reach_.calls) active.call->used = true;
  }

  /// The task gradients that arrived at what a fork shares, with earlier ones of micro-batches.
  std::vector<SharedPart> parts(size_t fork, std::vector<SharedPart> earlier) {
    std::vector<LookupGradients> lookups;
    for (const ActiveCall* active : by_age(fork))
      for (size_t i = 0; i < active->call->lookups.size(); ++i) {
        std::vector<at::Tensor> gradients;
        for (const std::vector<at::Tensor>& of_task : active->call->collected) gradients.push_back(of_task[i]);
        lookups.push_back({active->call->lookups[i], std::move(gradients)});
      }
    std::vector<RowTable> tables;  // in an order that is the same in every step
    for (const LookupGradients& part : lookups) tables.push_back(part.lookup->table);
    if (shared_) tables.insert(tables.end(), shared_->tables().begin(), shared_->tables().end());
    for (size_t l = 0; l < reach_.lookups.size(); ++l) {
      const bool arrived = std::any_of(around_[l].begin(), around_[l].end(), [](const at::Tensor& gradient) { return gradient.defined(); });
      if (reach_.lookups[l].fork == fork && arrived) lookups.push_back({reach_.lookups[l].lookup->data, std::move(around_[l])});
    }
    std::vector<SharedPart> result;
    std::vector<TaskRows> earlier_rows;
    for (SharedPart& part : earlier)
      if (part.is_table()) earlier_rows.push_back(std::move(part.rows));
    for (TaskRows& rows : gather_task_rows(lookups, earlier_rows)) {
      SharedPart& part = result.emplace_back();
      part.name = rows.table.name();
      part.gramian = rows.gramian;
      part.rows = std::move(rows);
    }
    add_untouched_tables(tables, result);
    const auto place = [&](const SharedPart& part) {
      return std::find_if(tables.begin(), tables.end(), [&](const RowTable& table) { return table.is_same(part.rows.table); }) - tables.begin();
    };
    std::stable_sort(result.begin(), result.end(), [&](const SharedPart& a, const SharedPart& b) { return place(a) < place(b); });
    if (shared_) {
      for (size_t p = 0; p < of_parameter_.size(); ++p) {
        SharedPart& part = result.emplace_back();
        part.name = shared_->parameters()[p].name;
        part.thing = shared_->parameters()[p].thing;
        part.dense = {shared_->parameters()[p].value, std::move(of_parameter_[p])};
        for (size_t l = 0; l < reach_.linears.size(); ++l)
          if (reach_.linears[l].parameter == p) part.dense.factors = std::move(linear_tasks_[l]);
        for (SharedPart& known : earlier)
          if (!known.is_table() && known.dense.tensor.is_same(part.dense.tensor)) add(part.dense.gradients, known.dense.gradients);
        part.gramian = part.dense.gramian();
      }
    } else {
      for (const ActiveCall* active : by_age(fork)) {
        if (!active->is_representation()) continue;
        SharedPart& part = result.emplace_back();
        part.name = "representation";
        part.is_representation = true;
        part.dense.tensor = active->call->base;
        for (const std::vector<at::Tensor>& of_task : active->call->collected) part.dense.gradients.push_back(of_task.front());
        part.gramian = part.dense.gramian();
      }
    }
    return result;
  }

  /// Writes the gradients of lookups that no fork sees.
  void write_beside() const {
    for (const auto& lookup : reach_.beside)
      if (lookup->collected.defined()) write_row_gradient(*lookup->data, lookup->collected);
  }

 private:
  /// A Gramian adds up what the tasks share; before a pass, so that the graph is still there when it is refused.
  void check_one_device(size_t fork) const {
    std::string first_name;
    at::Tensor first;
    const auto check = [&](const std::string& name, const at::Tensor& tensor) {
      if (!first.defined()) {
        first = tensor;
        first_name = name;
      }
      HTL_CHECK(tensor.device() == first.device(), "htl::backward: expected what the tasks share on one device, got \"", first_name, "\" on ",
                first.device().str(), " and \"", name, "\" on ", tensor.device().str(), "; move one of them");
    };
    for (const ActiveCall& active : reach_.calls) {
      if (active.fork != fork) continue;
      if (active.is_representation()) check("representation", active.call->base);
      for (const auto& lookup : active.call->lookups) check(lookup->table.name(), lookup->table.weight());
    }
    for (const SharedLookup& lookup : reach_.lookups)
      if (lookup.fork == fork) check(lookup.lookup->data->table.name(), lookup.lookup->data->table.weight());
    if (!shared_) return;
    for (const RowTable& table : shared_->tables()) check(table.name(), table.weight());
    for (const Shared::Parameter& parameter : shared_->parameters()) check(parameter.name, parameter.value);
  }
  static void add(std::vector<at::Tensor>& to, const std::vector<at::Tensor>& more) {
    for (size_t t = 0; t < to.size(); ++t)
      if (more[t].defined()) to[t] = to[t].defined() ? to[t] + more[t] : more[t];
  }

  /// Takes what a pass brought to lookups and parameters, for the task to which it belongs.
  template <class OfLookup, class OfParameter>
  void take(ParameterGradients& gradients, OfLookup&& task_of_lookup, OfParameter&& task_of_parameter) {
    const auto add_one = [](at::Tensor& sum, at::Tensor&& gradient) {
      if (gradient.defined()) sum = sum.defined() ? sum + gradient : std::move(gradient);
    };
    for (size_t l = 0; l < reach_.lookups.size(); ++l) add_one(around_[l][task_of_lookup(l)], std::exchange(reach_.lookups[l].lookup->collected, at::Tensor()));
    for (size_t p = 0; p < gradients.size(); ++p) add_one(of_parameter_[p][task_of_parameter(p)], gradients.take(p));
    for (size_t l = 0; l < captures_.size(); ++l) linear_tasks_[l]->add(task_of_parameter(reach_.linears[l].parameter), *captures_[l]);
  }

  /// One task's gradient of the split representations of a level, pulled to what they come from.
  void run_below(ParameterGradients& gradients, size_t level, size_t t) {
    const auto arrived = [&](size_t task) {
      return std::any_of(reach_.levels[level].begin(), reach_.levels[level].end(),
                         [&](size_t c) { return reach_.calls[c].call->collected[task].front().defined(); });
    };
    std::vector<at::Tensor> bases, cotangents;
    for (const size_t c : reach_.levels[level]) {
      ForkCall& call = *reach_.calls[c].call;
      if (!call.collected[t].front().defined()) continue;
      bases.push_back(call.base);
      cotangents.push_back(std::exchange(call.collected[t].front(), at::Tensor()));
    }
    if (bases.empty()) return;
    bool last = level + 1 == reach_.levels.size();
    for (size_t later = t + 1; later < tasks_; ++later) last = last && !arrived(later);
    for (ActiveCall& active : reach_.calls) std::fill(active.call->task_of_view.begin(), active.call->task_of_view.end(), static_cast<int64_t>(t));
    torch::autograd::backward(bases, cotangents, /*retain_graph=*/!last);
    take(
        gradients, [&](size_t) { return t; }, [&](size_t) { return t; });
  }

  /// Tables that this batch did not look up: parts are the same in every step.
  void add_untouched_tables(const std::vector<RowTable>& tables, std::vector<SharedPart>& parts) const {
    const auto tasks = static_cast<int64_t>(tasks_);
    for (const RowTable& table : tables) {
      if (std::any_of(parts.begin(), parts.end(), [&](const SharedPart& part) { return part.rows.table.is_same(table); })) continue;
      SharedPart& part = parts.emplace_back();
      const at::TensorOptions options = table.weight().options().requires_grad(false);
      part.name = table.name();
      part.gramian = at::zeros({tasks, tasks}, options.dtype(at::kDouble));
      part.rows = {table, at::empty({0}, options.dtype(at::kLong)), {}, at::empty({0, tasks, table.dim()}, options.dtype(sum_type(options))), part.gramian};
    }
  }
  /// A fork's splits in the order in which they were made: sums and states must not depend on the order in which losses met them.
  std::vector<const ActiveCall*> by_age(size_t fork) const {
    std::vector<const ActiveCall*> result;
    for (const ActiveCall& active : reach_.calls)
      if (active.fork == fork) result.push_back(&active);
    std::sort(result.begin(), result.end(), [](const ActiveCall* a, const ActiveCall* b) { return a->node->sequence_nr() < b->node->sequence_nr(); });
    return result;
  }

  const TaskLosses& losses_;
  const Shared* shared_;
  size_t tasks_;
  Reach reach_;
  Disarm disarm_;
  std::vector<std::vector<size_t>> passes_;
  std::vector<std::vector<at::Tensor>> around_;        // [lookups][T]
  std::vector<std::vector<at::Tensor>> of_parameter_;  // [parameters][T]
  std::vector<c10::intrusive_ptr<LinearCapture>> captures_;
  std::vector<std::shared_ptr<LinearTasks>> linear_tasks_;
};

}  // namespace htl::detail
