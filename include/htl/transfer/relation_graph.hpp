// SPDX-License-Identifier: Apache-2.0
/// @file relation_graph.hpp
/// @brief RelationGraph (DBMTL): a task's relation layers read what the relation layers of the tasks before it found, along a TaskSet.
/// Not in the umbrella: include it where it is used.
#pragma once

#include <htl/nn/mlp.hpp>
#include <htl/task/task_set.hpp>
#include <htl/transfer/detail/module_table.hpp>

namespace htl::inline v0_1_0 {

/// @brief Options of RelationGraph.
///
/// Example: `RelationGraphOptions(128).task({64, 32}).relation({32})`
struct RelationGraphOptions {
  /// @brief A graph whose task networks read views of width D.
  explicit RelationGraphOptions(int64_t input_width) : input_width_(input_width) {}

  /// D, the width of every task's view.
  TORCH_ARG(int64_t, input_width);
  /// The widths of the task networks' layers; default 64. Empty: a_t is the view itself.
  TORCH_ARG(std::vector<int64_t>, task) = {64};
  /// The widths of the relation layers, at least one; default 32.
  TORCH_ARG(std::vector<int64_t>, relation) = {32};
  /// Whether what flows along an edge is detached, so that no loss reaches the networks of other tasks; default false, as in the paper.
  TORCH_ARG(bool, stop_gradient) = false;
  /// Dropout behind each ReLU, in [0, 1); default 0.
  TORCH_ARG(double, dropout) = 0.0;
  /// Generator of dropout; undefined = the default one.
  TORCH_ARG(at::Generator, generator) = {};
};

/// @brief a_t = task_t(view_t); r_t = relation_t([a_t; r_u for the parents u of t]); output_t = W_t r_t + b_t.
///
/// **Children.** `tasks.<task>` and `relations.<task>`, each an Mlp, `outputs.<task>`.
/// **Shapes.** T views [B, D] in the order of the TaskSet (or one tensor for all) → outputs [B, W_t] by name. **Gradient.** A loss reaches the networks and
/// views of all tasks before its own, unless stop_gradient is set. **RNG.** Dropout in training mode, in topological order. **Device.** Any; no
/// synchronisation. **Cost.** All networks once.
/// **Reference.** Wang et al., arXiv 1902.09154 (deep Bayesian multi-target learning). The shared bottom, an Mlp or MixtureOfExperts, stands below.
class RelationGraphImpl : public torch::nn::Cloneable<RelationGraphImpl> {
 public:
  /// @brief Checks the options and makes the parts.
  /// @throws c10::ValueError on widths below 1 or without relation layers
  RelationGraphImpl(TaskSet task_set, RelationGraphOptions graph_options) : options(std::move(graph_options)), tasks_(std::move(task_set)) { reset(); }

  /// @brief Makes all parts anew.
  void reset() override {
    HTL_CHECK(options.input_width() >= 1, "htl::RelationGraph: expected an input width ≥ 1, got ", options.input_width());
    HTL_CHECK(!options.relation().empty(), "htl::RelationGraph: expected at least one relation layer, got none; give widths such as {32}");
    const auto count = static_cast<size_t>(tasks_.size());
    task_networks_ = register_module("tasks", std::make_shared<Mlps>(count));
    relations_ = register_module("relations", std::make_shared<Mlps>(count));
    outputs_ = register_module("outputs", std::make_shared<Outputs>(count));
    const int64_t width = options.relation().back();
    for (const int64_t position : tasks_.order()) {
      const auto t = static_cast<size_t>(position);
      const std::string& name = tasks_[position].name();
      std::vector<int64_t> inputs{options.task().empty() ? options.input_width() : options.task().back()};
      inputs.resize(1 + tasks_.parents(position).size(), width);
      const auto mlp = [&](std::vector<int64_t> from, const std::vector<int64_t>& hidden) {
        return MlpOptions(std::move(from), hidden).dropout(options.dropout()).generator(options.generator());
      };
      if (!options.task().empty()) task_networks_->make(t, name, mlp({options.input_width()}, options.task()));
      relations_->make(t, name, mlp(std::move(inputs), options.relation()));
      outputs_->make(t, name, DenseOptions(width, tasks_[position].output_width()));
    }
  }

  /// @brief One view per task, in the order of the TaskSet, as a gradient fork or MixtureOfExperts gives them.
  /// @throws c10::ValueError on a wrong number or shape
  TaskOutputs forward(const std::vector<at::Tensor>& views) {
    HTL_CHECK(static_cast<int64_t>(views.size()) == tasks_.size(), "htl::RelationGraph: expected ", tasks_.size(), " views, one per task of ",
              quoted(tasks_.names()), ", got ", views.size());
    const auto count = static_cast<size_t>(tasks_.size());
    std::vector<at::Tensor> relations(count), outputs(count);
    for (const int64_t position : tasks_.order()) {
      const auto t = static_cast<size_t>(position);
      std::vector<at::Tensor> parts{options.task().empty() ? views[t] : (*task_networks_)[t]->forward(views[t])};
      for (const int64_t u : tasks_.parents(position)) {
        const at::Tensor& flowing = relations[static_cast<size_t>(u)];
        parts.push_back(options.stop_gradient() ? flowing.detach() : flowing);
      }
      relations[t] = (*relations_)[t]->forward(parts);
      outputs[t] = (*outputs_)[t]->forward(relations[t]);
    }
    TaskOutputs named;
    for (size_t t = 0; t < count; ++t) named.set(tasks_[static_cast<int64_t>(t)].name(), std::move(outputs[t]));
    return named;
  }
  /// @brief All task networks read the same tensor [B, D].
  TaskOutputs forward(const at::Tensor& shared) { return forward(std::vector<at::Tensor>(static_cast<size_t>(tasks_.size()), shared)); }

  /// @brief The tasks.
  const TaskSet& tasks() const { return tasks_; }
  /// @brief One line; the parts follow below it.
  void pretty_print(std::ostream& stream) const override {
    stream << "htl::RelationGraph(tasks=[" << quoted(tasks_.names()) << "], input_width=" << options.input_width()
           << ", task=" << at::IntArrayRef(options.task()) << ", relation=" << at::IntArrayRef(options.relation())
           << (options.stop_gradient() ? ", stop_gradient)" : ")");
  }

  /// The options that it was made with.
  RelationGraphOptions options;

 private:
  using Mlps = detail::ModuleTable<Mlp, MlpOptions>;
  using Outputs = detail::ModuleTable<Dense, DenseOptions>;

  TaskSet tasks_;
  std::shared_ptr<Mlps> task_networks_, relations_;
  std::shared_ptr<Outputs> outputs_;
};
/// Holder of RelationGraphImpl.
TORCH_MODULE(RelationGraph);

}  // namespace htl
