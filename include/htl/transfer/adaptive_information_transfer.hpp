// SPDX-License-Identifier: Apache-2.0
/// @file adaptive_information_transfer.hpp
/// @brief AdaptiveInformationTransfer (AITM): what a task's tower knows attends to what the tasks before it hand over, along a TaskSet.
/// Not in the umbrella: include it where it is used.
#pragma once

#include <htl/nn/mlp.hpp>
#include <htl/task/task_set.hpp>
#include <htl/transfer/detail/module_table.hpp>
#include <htl/transfer/information_fusion.hpp>

namespace htl::inline v0_1_0 {

/// @brief Options of AdaptiveInformationTransfer.
///
/// Example: `AdaptiveInformationTransferOptions(430).tower({128, 64, 32}).stop_gradient(true)`
struct AdaptiveInformationTransferOptions {
  /// @brief Towers that read views of width D.
  explicit AdaptiveInformationTransferOptions(int64_t input_width) : input_width_(input_width) {}

  /// D, the width of every task's view.
  TORCH_ARG(int64_t, input_width);
  /// N: the width of further dense inputs that every tower reads beside its view; default 0 = none.
  TORCH_ARG(int64_t, numeric_width) = 0;
  /// The widths of the towers' layers; default 128, 64, 32. The last is H.
  TORCH_ARG(std::vector<int64_t>, tower) = {128, 64, 32};
  /// The widths of the layers of g before its last one, which is H wide; default none.
  TORCH_ARG(std::vector<int64_t>, transfer) = {};
  /// Whether Q, K and V have biases; default false.
  TORCH_ARG(bool, bias) = false;
  /// Whether what is handed over is detached, so that no loss reaches the towers of other tasks; default false, as in the paper.
  TORCH_ARG(bool, stop_gradient) = false;
  /// Dropout in towers and g, in [0, 1); default 0.
  TORCH_ARG(double, dropout) = 0.0;
  /// Generator of dropout; undefined = the default one.
  TORCH_ARG(at::Generator, generator) = {};
};

/// @brief q_t = tower_t(view_t); z_t = AIT(q_t, g_ut(z_u) for the parents u of t); output_t = W_t z_t + b_t; z_t = q_t without parents.
///
/// AIT over items a ∈ {q_t, g_ut(z_u), …}: w = softmax(<Q a, K a>/√H), z = Σ w V a, with Q, K and V of each receiving task, shared by its items: an
/// InformationFusion. g_ut, one for each edge, is an Mlp. In the paper a task has one parent; here it has those of the TaskSet.
///
/// **Children.** `towers.<task>`, `transfers.<parent>_to_<task>`, `fusions.<task>`, `outputs.<task>`.
/// **Shapes.** T views [B, D] in the order of the TaskSet (or one tensor for all), numbers [B, N] → outputs [B, W_t] by name. **Gradient.** A loss reaches the
/// towers and views of all tasks before its own, unless stop_gradient is set. **RNG.** Dropout in training mode, in topological order. **Device.** Any; no
/// synchronisation. **Cost.** All towers once; an edge H², an attention 2·H² multiply-adds for each item and row.
/// **Reference.** Xi et al., KDD 2021. The calibrator relu(p_t − p_u) is the loss OrderCalibration, and not part of this.
class AdaptiveInformationTransferImpl : public torch::nn::Cloneable<AdaptiveInformationTransferImpl> {
 public:
  /// @brief Checks the options and makes the parts.
  /// @throws c10::ValueError on widths below 1 or without tower layers
  AdaptiveInformationTransferImpl(TaskSet task_set, AdaptiveInformationTransferOptions transfer_options)
      : options(std::move(transfer_options)), tasks_(std::move(task_set)) {
    reset();
  }

  /// @brief Makes all parts anew.
  void reset() override {
    HTL_CHECK(options.input_width() >= 1 && options.numeric_width() >= 0,
              "htl::AdaptiveInformationTransfer: expected an input width ≥ 1 and a numeric width ≥ 0, got ", options.input_width(), " and ",
              options.numeric_width());
    HTL_CHECK(!options.tower().empty(), "htl::AdaptiveInformationTransfer: expected at least one tower layer, got none; give widths such as {128, 64, 32}");
    const auto count = static_cast<size_t>(tasks_.size());
    const int64_t width = options.tower().back();
    towers_ = register_module("towers", std::make_shared<Mlps>(count));
    transfers_ = register_module("transfers", std::make_shared<Mlps>(count * count));
    fusions_ = register_module("fusions", std::make_shared<Fusions>(count));
    outputs_ = register_module("outputs", std::make_shared<Outputs>(count));
    std::vector<int64_t> transfer = options.transfer();
    transfer.push_back(width);
    const auto mlp = [&](std::vector<int64_t> from, std::vector<int64_t> hidden) {
      return MlpOptions(std::move(from), std::move(hidden)).dropout(options.dropout()).generator(options.generator());
    };
    std::vector<int64_t> inputs{options.input_width()};
    if (options.numeric_width() > 0) inputs.push_back(options.numeric_width());
    for (const int64_t t : tasks_.order()) {
      const std::vector<int64_t>& parents = tasks_.parents(t);
      towers_->make(static_cast<size_t>(t), tasks_[t].name(), mlp(inputs, options.tower()));
      for (const int64_t u : parents) transfers_->make(edge(u, t), tasks_[u].name() + "_to_" + tasks_[t].name(), mlp({width}, transfer));
      if (!parents.empty())
        fusions_->make(static_cast<size_t>(t), tasks_[t].name(),
                       InformationFusionOptions(std::vector<int64_t>(parents.size() + 1, width), width).bias(options.bias()));
      outputs_->make(static_cast<size_t>(t), tasks_[t].name(), DenseOptions(width, tasks_[t].output_width()));
    }
  }

  /// @brief One view per task, in the order of the TaskSet, as a gradient fork or MixtureOfExperts gives them.
  /// @param views T tensors [B, D]
  /// @param numeric [B, N] if numeric_width is set
  /// @throws c10::ValueError on a wrong number or shape
  TaskOutputs forward(const std::vector<at::Tensor>& views, const at::Tensor& numeric = {}) {
    HTL_CHECK(static_cast<int64_t>(views.size()) == tasks_.size(), "htl::AdaptiveInformationTransfer: expected ", tasks_.size(), " views, one per task of ",
              quoted(tasks_.names()), ", got ", views.size());
    const auto count = static_cast<size_t>(tasks_.size());
    std::vector<at::Tensor> known(count), outputs(count);
    for (const int64_t position : tasks_.order()) {
      const auto t = static_cast<size_t>(position);
      std::vector<at::Tensor> parts{views[t]};
      if (numeric.defined()) parts.push_back(numeric);
      std::vector<at::Tensor> items{(*towers_)[t]->forward(parts)};
      for (const int64_t u : tasks_.parents(position)) {
        const at::Tensor& source = known[static_cast<size_t>(u)];
        items.push_back((*transfers_)[edge(u, position)]->forward(options.stop_gradient() ? source.detach() : source));
      }
      known[t] = items.size() == 1 ? items[0] : (*fusions_)[t]->forward(items);
      outputs[t] = (*outputs_)[t]->forward(known[t]);
    }
    TaskOutputs named;
    for (size_t t = 0; t < count; ++t) named.set(tasks_[static_cast<int64_t>(t)].name(), std::move(outputs[t]));
    return named;
  }
  /// @brief All towers read the same tensor [B, D].
  TaskOutputs forward(const at::Tensor& shared, const at::Tensor& numeric = {}) {
    return forward(std::vector<at::Tensor>(static_cast<size_t>(tasks_.size()), shared), numeric);
  }

  /// @brief The tasks.
  const TaskSet& tasks() const { return tasks_; }
  /// @brief The attention of a task; an empty holder where nothing flows in. By `keep_weights()` before a forward it keeps [B, 1 + parents] weights, the
  /// task's own first.
  InformationFusion& fusion(std::string_view task) { return (*fusions_)[static_cast<size_t>(tasks_.index(task))]; }

  /// @brief One line; the parts follow below it.
  void pretty_print(std::ostream& stream) const override {
    stream << "htl::AdaptiveInformationTransfer(tasks=[" << quoted(tasks_.names()) << "], input_width=" << options.input_width()
           << ", tower=" << at::IntArrayRef(options.tower()) << (options.stop_gradient() ? ", stop_gradient)" : ")");
  }

  /// The options that it was made with.
  AdaptiveInformationTransferOptions options;

 private:
  using Mlps = detail::ModuleTable<Mlp, MlpOptions>;
  using Fusions = detail::ModuleTable<InformationFusion, InformationFusionOptions>;
  using Outputs = detail::ModuleTable<Dense, DenseOptions>;
  size_t edge(int64_t from, int64_t to) const { return static_cast<size_t>(to * tasks_.size() + from); }

  TaskSet tasks_;
  std::shared_ptr<Mlps> towers_, transfers_;
  std::shared_ptr<Fusions> fusions_;
  std::shared_ptr<Outputs> outputs_;
};
/// Holder of AdaptiveInformationTransferImpl.
TORCH_MODULE(AdaptiveInformationTransfer);

}  // namespace htl
