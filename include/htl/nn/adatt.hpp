// SPDX-License-Identifier: Apache-2.0
/// @file adatt.hpp
/// @brief AdaTT: experts of each task, mixed for each task over all of them, with the task's own experts added once more.
/// Not in the umbrella: include it where it is used.
#pragma once

#include <htl/nn/detail/expert_level.hpp>
#include <htl/nn/expert_load.hpp>

namespace htl::inline v0_1_0 {

/// @brief Options of AdaTT.
///
/// Example: `AdaTTOptions(430, 3).levels({{128}, {64}}).experts(2).shared(1)`
struct AdaTTOptions {
  /// @brief Levels for T tasks over an input in several parts.
  /// @param inputs the parts' widths
  /// @param tasks T ≥ 1
  AdaTTOptions(std::vector<int64_t> inputs, int64_t tasks) : inputs_(std::move(inputs)), tasks_(tasks) {}
  /// @brief Levels for T tasks over one input.
  AdaTTOptions(int64_t input, int64_t tasks) : inputs_{input}, tasks_(tasks) {}

  /// The widths of the input's parts.
  TORCH_ARG(std::vector<int64_t>, inputs);
  /// T.
  TORCH_ARG(int64_t, tasks);
  /// For each level the widths of an expert's layers; default two levels of one layer: 128, then 64.
  TORCH_ARG(std::vector<std::vector<int64_t>>, levels) = std::vector<std::vector<int64_t>>{{128}, {64}};
  /// Experts of each task in each level; default 2.
  TORCH_ARG(int64_t, experts) = 2;
  /// Experts of the shared unit in each level; default 0: no such unit (AdaTT-sp).
  TORCH_ARG(int64_t, shared) = 0;
  /// Whether a unit's own experts are added to the mixture; default true.
  TORCH_ARG(bool, residual) = true;
  /// The widths of a gate's hidden layers; default none: linear gates.
  TORCH_ARG(std::vector<int64_t>, gate) = {};
  /// Probability in [0, 1) that a gate's entry is dropped in training, never all of one gate's; default 0.
  TORCH_ARG(double, gate_dropout) = 0.0;
  /// Dropout behind each ReLU of experts and gates, in [0, 1); default 0.
  TORCH_ARG(double, dropout) = 0.0;
  /// Generator of both kinds of dropout; undefined = the default one.
  TORCH_ARG(at::Generator, generator) = {};
};

/// @brief Level l: x^t' = softmax(W^t x^t)·E + Σ_e v_te E^t_e, where E are all units' experts, those of unit t reading x^t.
///
/// x^t = x at first. The own experts' weights v are learnt, U(−√(1/n), √(1/n)) at first; a single own expert has the weight 1. With shared experts there is
/// one unit more, with an input, a gate and own experts like a task's, but without an output in the last level (AdaTT's general form).
///
/// **Children.** `level_<l>` with `experts_<t>`, `gate_<t>`, `residual_<t>`, and `…_shared`.
/// **Shapes.** parts [B, D_p] → T representations [B, H], H = the last level's last width, for `TaskGraph::forward(views)`.
/// **Gradient.** To parts, experts, gates and v. By hand on the CPU in fp32 and fp64 (no second derivative there). **RNG.** As MixtureOfExperts.
/// **Device.** Any; no synchronisation. **Cost.** A level's experts and gates once each; its mixtures B·T·(T·n)·H.
/// **Reference.** Li et al., KDD 2023 (AdaTT-sp, and AdaTT with shared experts).
class AdaTTImpl : public torch::nn::Cloneable<AdaTTImpl> {
 public:
  /// @brief Checks the options and makes the levels.
  /// @throws c10::ValueError without levels or expert layers, on sizes below 1, or a dropout outside [0, 1)
  explicit AdaTTImpl(AdaTTOptions network_options) : options(std::move(network_options)) { reset(); }

  /// @brief Makes the levels anew.
  void reset() override {
    HTL_CHECK(options.tasks() >= 1 && options.experts() >= 1 && options.shared() >= 0,
              "htl::AdaTT: expected at least one task, one expert of each and no fewer than 0 shared ones, got ", options.tasks(), " tasks, ",
              options.experts(), " experts and ", options.shared(), " shared ones");
    HTL_CHECK(!options.levels().empty(), "htl::AdaTT: expected at least one level, got none; give widths such as {{128}, {64}}");
    HTL_CHECK(options.gate_dropout() >= 0.0 && options.gate_dropout() < 1.0, "htl::AdaTT: expected gate_dropout in [0, 1), got ", options.gate_dropout());
    levels_.clear();
    std::vector<int64_t> inputs = options.inputs(), all;
    for (int64_t s = 0; s < options.tasks() + (options.shared() > 0 ? 1 : 0); ++s) all.push_back(s);
    for (size_t l = 0; l < options.levels().size(); ++l) {
      HTL_CHECK(!options.levels()[l].empty(), "htl::AdaTT: expected at least one layer in the experts of level ", l, ", got none");
      detail::ExpertLevelOptions made{.inputs = inputs, .tasks = options.tasks(), .expert = options.levels()[l]};
      made.counts.assign(static_cast<size_t>(options.tasks()), options.experts());
      if (options.shared() > 0) made.counts.push_back(options.shared());
      made.reads.assign(l + 1 < options.levels().size() ? all.size() : static_cast<size_t>(options.tasks()), all);
      made.residual = options.residual();
      made.gate = options.gate();
      made.gate_dropout = options.gate_dropout();
      made.dropout = options.dropout();
      made.generator = options.generator();
      levels_.push_back(register_module("level_" + std::to_string(l), detail::ExpertLevel(made)));
      inputs = {options.levels()[l].back()};
    }
  }

  /// @brief Parts [B, D_p] → T representations [B, H].
  /// @throws c10::ValueError on a wrong number or shape of parts
  std::vector<at::Tensor> forward(const std::vector<at::Tensor>& parts) {
    std::vector<std::vector<at::Tensor>> streams(static_cast<size_t>(options.tasks()) + (options.shared() > 0 ? 1 : 0), parts);
    std::vector<at::Tensor> out;
    for (detail::ExpertLevel& level : levels_) {
      out = level->forward(streams);
      for (size_t s = 0; s < out.size(); ++s) streams[s] = {out[s]};
    }
    return out;
  }
  /// @brief The same for one input [B, D].
  std::vector<at::Tensor> forward(const at::Tensor& input) { return forward(std::vector<at::Tensor>{input}); }

  /// @brief The experts of a task in a level, or with `task = T` the shared ones: `->forward(x)` [B, n·H] are their outputs. An empty holder for none.
  ParallelMlp experts(size_t level, size_t task) const {
    const bool none = options.shared() == 0 && task == static_cast<size_t>(options.tasks());
    return none ? ParallelMlp(nullptr) : levels_.at(level)->experts(task);
  }
  /// @brief H.
  int64_t representation_width() const { return options.levels().back().back(); }

  /// @brief Whether forward() keeps the gates of its last call for gates(); off by default, and then forward() writes nothing to the module.
  void keep_gates(bool on = true) {
    for (detail::ExpertLevel& level : levels_) {
      level->keeps_gates = on;
      level->gates.clear();
    }
  }
  /// @brief The gates of the last forward in a level, detached, v left out: [B, T·n + shared] for each unit with an output, the experts unit by unit. For
  /// expert_load(). Empty where none were kept.
  const std::vector<at::Tensor>& gates(size_t level) const { return levels_.at(level)->gates; }

  /// @brief One line; the levels follow below it.
  void pretty_print(std::ostream& stream) const override {
    stream << "htl::AdaTT(inputs=" << at::IntArrayRef(options.inputs()) << ", tasks=" << options.tasks() << ", levels=" << options.levels().size()
           << ", experts=" << options.experts() << ", shared=" << options.shared() << ")";
  }

  /// The options that it was made with.
  AdaTTOptions options;

 private:
  std::vector<detail::ExpertLevel> levels_;
};
/// Holder of AdaTTImpl.
TORCH_MODULE(AdaTT);

}  // namespace htl
