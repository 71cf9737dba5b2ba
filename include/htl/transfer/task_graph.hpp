// SPDX-License-Identifier: Apache-2.0
/// @file task_graph.hpp
/// @brief TaskGraph: a tower per task, and what flows between the tasks along the edges of a TaskSet.
#pragma once

#include <htl/nn/tower.hpp>
#include <htl/task/task_set.hpp>
#include <htl/transfer/detail/module_table.hpp>
#include <htl/transfer/information_fusion.hpp>
#include <htl/transfer/label_embedding.hpp>
#include <htl/transfer/transfer_policy.hpp>

namespace htl::inline v0_1_0 {

/// @brief Options of TaskGraph.
///
/// Example: `TaskGraphOptions(430).tower({128, 64, 32}).stop_gradient(StopGradient::none)`
struct TaskGraphOptions {
  /// @brief A graph whose towers read views of width D.
  explicit TaskGraphOptions(int64_t input_width) : input_width_(input_width) {}

  /// D, the width of every task's view.
  TORCH_ARG(int64_t, input_width);
  /// N: the width of further dense inputs that every tower reads beside its view; default 0 = none.
  TORCH_ARG(int64_t, numeric_width) = 0;
  /// The widths of the towers' hidden layers; default 128, 64, 32.
  TORCH_ARG(std::vector<int64_t>, tower) = {128, 64, 32};
  /// Dropout in the towers, in [0, 1); default 0.
  TORCH_ARG(double, dropout) = 0.0;
  /// Which hidden layer is the representation; default first_hidden.
  TORCH_ARG(int64_t, representation) = first_hidden;
  /// What flows; default both.
  TORCH_ARG(Transfer, transfer) = Transfer::both;
  /// Where the gradient of what flows stops; default inputs.
  TORCH_ARG(StopGradient, stop_gradient) = StopGradient::inputs;
  /// How the parents' vectors are fused; default attention.
  TORCH_ARG(FusionKind, fusion) = FusionKind::attention;
  /// Width of a fused representation; default 0 = the widest of the parents' representations.
  TORCH_ARG(int64_t, fusion_width) = 0;
  /// Width of a fused label embedding; default 0 = the label embeddings' width.
  TORCH_ARG(int64_t, label_fusion_width) = 0;
  /// The label embeddings; their number of classes is set task by task. Default: 10 dimensions, Gumbel noise, soft, τ = 1.
  TORCH_ARG(LabelEmbeddingOptions, label) = LabelEmbeddingOptions();
  /// Generator of dropout and label noise; undefined = the default one. (One set in label() wins for the label noise.)
  TORCH_ARG(at::Generator, generator) = {};
};

namespace detail {

/// @brief Options of one task's fusion units; a unit without sources does not exist.
struct TaskFusionOptions {
  std::optional<InformationFusionOptions> representation;  ///< of the parents' representations
  std::optional<InformationFusionOptions> label;           ///< of the parents' label embeddings
};

/// @brief One task's fusion units as children `representation` and `label`.
template <class Fusion>
class TaskFusionUnitsImpl : public torch::nn::Cloneable<TaskFusionUnitsImpl<Fusion>> {
 public:
  /// @brief Makes the units that have options.
  explicit TaskFusionUnitsImpl(TaskFusionOptions unit_options) : options_(std::move(unit_options)) { reset(); }
  /// @brief Makes the units anew.
  void reset() override {
    representation = make("representation", options_.representation);
    label = make("label", options_.label);
  }
  /// @brief A short name; the units follow below it.
  void pretty_print(std::ostream& stream) const override { stream << "htl::TaskFusionUnits"; }
  Fusion representation{nullptr};  ///< of the parents' representations; may be empty
  Fusion label{nullptr};           ///< of the parents' label embeddings; may be empty

 private:
  Fusion make(const char* name, const std::optional<InformationFusionOptions>& unit) {
    if (!unit) return Fusion(nullptr);
    return this->register_module(name, Fusion(static_cast<const InformationFusionOptions&>(*unit)));
  }
  TaskFusionOptions options_;
};
/// @brief Holder of TaskFusionUnitsImpl.
template <class Fusion>
struct TaskFusionUnits : torch::nn::ModuleHolder<TaskFusionUnitsImpl<Fusion>> {
  using torch::nn::ModuleHolder<TaskFusionUnitsImpl<Fusion>>::ModuleHolder;
};

/// @brief One tower's input parts; a fusion unit's last linear map is left to the tower's first layer where both have forward_mapped().
template <class TowerHolder>
class TowerInputs {
 public:
  /// @brief A part as it is.
  void add(const at::Tensor& part) { parts_.push_back({part, {}, {}}); }
  /// @brief What a fusion unit makes of its sources.
  template <class FusionHolder>
  void add(FusionHolder& unit, const std::vector<at::Tensor>& sources) {
    if constexpr (kMapped && requires { unit->forward_mapped(sources); }) {
      MappedPart part = unit->forward_mapped(sources);
      if (part.map.defined() && !at::GradMode::is_enabled()) part = {part.values, part.map.detach(), part.shift.detach()};
      parts_.push_back(std::move(part));
    } else {
      add(unit->forward(sources));
    }
  }
  /// @brief The tower over all of them.
  TowerOutput run(TowerHolder& tower) const {
    if constexpr (kMapped) {
      return tower->forward_mapped(parts_);
    } else {
      std::vector<at::Tensor> values;
      for (const MappedPart& part : parts_) values.push_back(part.values);
      return tower->forward(values);
    }
  }

 private:
  static constexpr bool kMapped = requires(TowerHolder & tower, const std::vector<MappedPart>& parts) { tower->forward_mapped(parts); };
  std::vector<MappedPart> parts_;
};

}  // namespace detail

/// @brief Towers, label embeddings and fusion units of all tasks, wired along a TaskSet: HTLNet above its embeddings.
///
/// For a task t with parents P(t): input = [view_t, numeric, IFU_rep(rep_p : p ∈ P(t)), IFU_lab(LEU_p(logit_p) : p ∈ P(t) discrete)];
/// (output_t, rep_t) = tower_t(input). Only what some task reads is made: a task without followers has no label embedding, a regression never has one.
///
/// **Children.** `towers.<task>`, `label_embeddings.<task>`, `fusions.<task>.representation`, `fusions.<task>.label`.
/// **Shapes.** T views [B, D] in the order of the TaskSet (or one tensor for all) → outputs [B, W_t] by name. **Gradient.** See StopGradient: with all but
/// `none`, loss t reaches its own view and tower, its own fusion units and its parents' label tables, never another task's tower or view.
/// **RNG.** Dropout and Gumbel noise in training mode, drawn in topological order; evaluation is deterministic. **Device.** Any; no synchronisation.
/// **Cost.** All towers and units once; 0.73 MFLOP a row forward for HTLNet on 43 fields of 10 with three tasks, at most twice that backward.
/// **Reference.** Tang et al., RecSys 2024, Eq. 5–15. Deviations: see LabelEmbedding, InformationFusion, StopGradient.
template <TaskTower TowerHolder = Tower, TaskLabelEmbedding LabelHolder = LabelEmbedding, TaskFusion FusionHolder = InformationFusion>
class TaskGraphImpl : public torch::nn::Cloneable<TaskGraphImpl<TowerHolder, LabelHolder, FusionHolder>> {
 public:
  /// @brief Checks tasks and options, and makes the parts.
  /// @throws c10::ValueError on widths below 1 or options that a part refuses; or when the label of a task should flow whose output is no logits
  TaskGraphImpl(TaskSet task_set, TaskGraphOptions graph_options) : options(std::move(graph_options)), tasks_(std::move(task_set)) { reset(); }

  /// @brief Makes all parts anew.
  void reset() override;

  /// @brief One view per task, in the order of the TaskSet, as a gradient fork gives them.
  /// @param views T tensors [B, D]
  /// @param numeric [B, N] if numeric_width is set
  /// @throws c10::ValueError on a wrong number or shape
  TaskOutputs forward(const std::vector<at::Tensor>& views, const at::Tensor& numeric = {});
  /// @brief All towers read the same tensor [B, D].
  TaskOutputs forward(const at::Tensor& shared, const at::Tensor& numeric = {}) {
    return forward(std::vector<at::Tensor>(static_cast<size_t>(tasks_.size()), shared), numeric);
  }

  /// @brief The tasks.
  const TaskSet& tasks() const { return tasks_; }
  /// @brief A task's tower.
  TowerHolder& tower(std::string_view task) { return (*towers_)[slot(task)]; }
  /// @brief A task's label embedding; an empty holder where nothing reads it.
  LabelHolder& label_embedding(std::string_view task) { return (*label_embeddings_)[slot(task)]; }
  /// @brief The fusion of the representations that flow into a task; an empty holder where none do.
  FusionHolder& representation_fusion(std::string_view task) { return empty_or(task, &detail::TaskFusionUnitsImpl<FusionHolder>::representation); }
  /// @brief The fusion of the label embeddings that flow into a task; an empty holder where none do.
  FusionHolder& label_fusion(std::string_view task) { return empty_or(task, &detail::TaskFusionUnitsImpl<FusionHolder>::label); }

  /// @brief One line; the parts follow below it.
  void pretty_print(std::ostream& stream) const override {
    stream << "htl::TaskGraph(tasks=[" << quoted(tasks_.names()) << "], input_width=" << options.input_width() << ", transfer=" << to_string(options.transfer())
           << ", stop_gradient=" << to_string(options.stop_gradient()) << ")";
  }

  /// The options that it was made with.
  TaskGraphOptions options;

 private:
  using Towers = detail::ModuleTable<TowerHolder, TowerOptions>;
  using LabelEmbeddings = detail::ModuleTable<LabelHolder, LabelEmbeddingOptions>;
  using Fusions = detail::ModuleTable<detail::TaskFusionUnits<FusionHolder>, detail::TaskFusionOptions>;

  size_t slot(std::string_view task) const { return static_cast<size_t>(tasks_.index(task)); }
  FusionHolder& empty_or(std::string_view task, FusionHolder detail::TaskFusionUnitsImpl<FusionHolder>::*unit) {
    auto& units = (*fusions_)[slot(task)];
    return units ? (*units).*unit : nothing_;
  }
  void make_parts(int64_t task);
  void check_inputs(const std::vector<at::Tensor>& views, const at::Tensor& numeric) const;

  TaskSet tasks_;
  std::shared_ptr<Towers> towers_;
  std::shared_ptr<LabelEmbeddings> label_embeddings_;
  std::shared_ptr<Fusions> fusions_;
  std::vector<bool> is_read_;  // whether some task follows
  FusionHolder nothing_{nullptr};
};

/// @brief Holder of TaskGraphImpl: `htl::TaskGraph<>(tasks, htl::TaskGraphOptions(width))`; as a member `{nullptr}`.
/// @tparam TowerHolder a TaskTower
/// @tparam LabelHolder a TaskLabelEmbedding
/// @tparam FusionHolder a TaskFusion
template <TaskTower TowerHolder = Tower, TaskLabelEmbedding LabelHolder = LabelEmbedding, TaskFusion FusionHolder = InformationFusion>
class TaskGraph : public torch::nn::ModuleHolder<TaskGraphImpl<TowerHolder, LabelHolder, FusionHolder>> {
 public:
  /// The module that it holds.
  using Impl = TaskGraphImpl<TowerHolder, LabelHolder, FusionHolder>;
  /// @brief An empty holder.
  TaskGraph(std::nullptr_t) : torch::nn::ModuleHolder<Impl>(nullptr) {}  // NOLINT(google-explicit-constructor): as in LibTorch
  /// @brief Holds a module that exists.
  TaskGraph(std::shared_ptr<Impl> module) : torch::nn::ModuleHolder<Impl>(std::move(module)) {}  // NOLINT(google-explicit-constructor): as in LibTorch
  /// @brief Makes the module.
  TaskGraph(TaskSet tasks, TaskGraphOptions options) : TaskGraph(std::make_shared<Impl>(std::move(tasks), std::move(options))) {}
};

template <TaskTower TowerHolder, TaskLabelEmbedding LabelHolder, TaskFusion FusionHolder>
void TaskGraphImpl<TowerHolder, LabelHolder, FusionHolder>::reset() {
  HTL_CHECK(options.input_width() >= 1, "htl::TaskGraph: expected an input width ≥ 1, got ", options.input_width());
  HTL_CHECK(options.numeric_width() >= 0 && options.fusion_width() >= 0 && options.label_fusion_width() >= 0,
            "htl::TaskGraph: expected widths ≥ 0, got numeric_width ", options.numeric_width(), ", fusion_width ", options.fusion_width(),
            ", label_fusion_width ", options.label_fusion_width());
  const auto count = static_cast<size_t>(tasks_.size());
  is_read_.assign(count, false);
  for (int64_t t = 0; t < tasks_.size(); ++t)
    for (const int64_t parent : tasks_.parents(t)) is_read_[static_cast<size_t>(parent)] = options.transfer() != Transfer::none;

  towers_ = this->register_module("towers", std::make_shared<Towers>(count));
  label_embeddings_ = this->register_module("label_embeddings", std::make_shared<LabelEmbeddings>(count));
  fusions_ = this->register_module("fusions", std::make_shared<Fusions>(count));
  for (const int64_t position : tasks_.order()) make_parts(position);
}

template <TaskTower TowerHolder, TaskLabelEmbedding LabelHolder, TaskFusion FusionHolder>
void TaskGraphImpl<TowerHolder, LabelHolder, FusionHolder>::make_parts(int64_t position) {
  const auto t = static_cast<size_t>(position);
  const TaskSpec& task = tasks_[position];
  std::vector<int64_t> inputs{options.input_width()}, representations, embeddings;
  if (options.numeric_width() > 0) inputs.push_back(options.numeric_width());
  for (const int64_t parent : tasks_.parents(position)) {
    const auto p = static_cast<size_t>(parent);
    if (has_representation(options.transfer())) representations.push_back((*towers_)[p]->representation_width());
    if ((*label_embeddings_)[p]) embeddings.push_back(options.label().dim());
  }
  const auto fuse = [&](std::vector<int64_t> sources, int64_t width) -> std::optional<InformationFusionOptions> {
    if (sources.empty()) return std::nullopt;
    inputs.push_back(width > 0 ? width : *std::max_element(sources.begin(), sources.end()));
    return InformationFusionOptions(std::move(sources), inputs.back()).kind(options.fusion());
  };
  detail::TaskFusionOptions units;
  units.representation = fuse(std::move(representations), options.fusion_width());
  units.label = fuse(std::move(embeddings), options.label_fusion_width());
  if (units.representation || units.label) fusions_->make(t, task.name(), units);

  towers_->make(t, task.name(),
                TowerOptions(inputs, task.output_width())
                    .hidden(options.tower())
                    .dropout(options.dropout())
                    .representation(options.representation())
                    .generator(options.generator()));

  if (!is_read_[t] || !task.is_discrete() || !has_label(options.transfer())) return;
  const int64_t logits = task.kind() == TaskKind::binary ? 1 : task.classes();
  HTL_CHECK(task.output_width() == logits, "htl::TaskGraph: the label of task \"", task.name(), "\" flows to other tasks, which needs ", logits,
            " logits, but its losses ask for an output of width ", task.output_width(), "; let only the representation flow (transfer), or drop the edge");
  LabelEmbeddingOptions label = LabelEmbeddingOptions(options.label()).classes(task.classes());
  if (!label.generator().defined()) label.generator(options.generator());
  label_embeddings_->make(t, task.name(), label);
}

template <TaskTower TowerHolder, TaskLabelEmbedding LabelHolder, TaskFusion FusionHolder>
void TaskGraphImpl<TowerHolder, LabelHolder, FusionHolder>::check_inputs(const std::vector<at::Tensor>& views, const at::Tensor& numeric) const {
  HTL_CHECK(static_cast<int64_t>(views.size()) == tasks_.size(), "htl::TaskGraph: expected ", tasks_.size(), " views, one per task of ", quoted(tasks_.names()),
            ", got ", views.size());
  for (size_t t = 0; t < views.size(); ++t)
    check_shape("htl::TaskGraph", "the view of task \"" + tasks_[static_cast<int64_t>(t)].name() + "\"", views[t],
                {t == 0 ? -1 : views[0].size(0), options.input_width()});
  HTL_CHECK(numeric.defined() || options.numeric_width() == 0, "htl::TaskGraph: expected numeric inputs [B, ", options.numeric_width(),
            "], got none; pass batch.numeric");
  HTL_CHECK(!numeric.defined() || options.numeric_width() > 0, "htl::TaskGraph: got numeric inputs of shape ", shape_of(numeric),
            ", but was made for none; set numeric_width in its options");
  if (numeric.defined()) check_shape("htl::TaskGraph", "the numeric inputs", numeric, {views[0].size(0), options.numeric_width()});
}

template <TaskTower TowerHolder, TaskLabelEmbedding LabelHolder, TaskFusion FusionHolder>
TaskOutputs TaskGraphImpl<TowerHolder, LabelHolder, FusionHolder>::forward(const std::vector<at::Tensor>& views, const at::Tensor& numeric) {
  check_inputs(views, numeric);
  const StopGradient stop = options.stop_gradient();
  const bool trains_fusions = at::GradMode::is_enabled() && stop != StopGradient::fusion_output;
  const bool trains_labels = trains_fusions && stop != StopGradient::label_output;
  const auto cut = [&](const at::Tensor& leaving) { return stop == StopGradient::none ? leaving : leaving.detach(); };

  const auto count = static_cast<size_t>(tasks_.size());
  std::vector<at::Tensor> outputs(count), representations(count), labels(count);
  for (const int64_t position : tasks_.order()) {
    const auto t = static_cast<size_t>(position);
    std::vector<at::Tensor> from_representations, from_labels;
    detail::TowerInputs<TowerHolder> inputs;
    inputs.add(views[t]);
    if (numeric.defined()) inputs.add(numeric);
    for (const int64_t parent : tasks_.parents(position)) {
      const auto p = static_cast<size_t>(parent);
      if (has_representation(options.transfer())) from_representations.push_back(representations[p]);
      if (labels[p].defined()) from_labels.push_back(labels[p]);
    }
    if (auto& units = (*fusions_)[t]) {
      const at::AutoGradMode mode(trains_fusions);
      if (units->representation) inputs.add(units->representation, from_representations);
      if (units->label) inputs.add(units->label, from_labels);
    }
    TowerOutput result = inputs.run((*towers_)[t]);
    outputs[t] = std::move(result.output);
    if (!is_read_[t]) continue;
    representations[t] = cut(result.representation);
    if (auto& unit = (*label_embeddings_)[t]) {
      const at::AutoGradMode mode(trains_labels);
      labels[t] = unit->forward(cut(outputs[t]));
    }
  }
  TaskOutputs named;
  for (size_t t = 0; t < count; ++t) named.set(tasks_[static_cast<int64_t>(t)].name(), std::move(outputs[t]));
  return named;
}

}  // namespace htl
