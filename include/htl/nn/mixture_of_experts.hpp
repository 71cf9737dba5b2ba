// SPDX-License-Identifier: Apache-2.0
/// @file mixture_of_experts.hpp
/// @brief MixtureOfExperts (MMoE, OMoE): experts over a shared input, mixed for each task by a gate of its own.
/// Not in the umbrella: include it where it is used.
#pragma once

#include <htl/nn/detail/gate_weights.hpp>
#include <htl/nn/detail/mix.hpp>
#include <htl/nn/expert_load.hpp>
#include <htl/nn/parallel_mlp.hpp>

#include <ATen/ops/ones.h>

namespace htl::inline v0_1_0 {

/// @brief Options of MixtureOfExperts.
///
/// Example: `MixtureOfExpertsOptions({430, 10}, 3).experts(8).expert({128, 64}).gate_dropout(0.1)`
struct MixtureOfExpertsOptions {
  /// @brief Experts for T tasks over an input in several parts.
  /// @param inputs the parts' widths
  /// @param tasks T ≥ 1
  MixtureOfExpertsOptions(std::vector<int64_t> inputs, int64_t tasks) : inputs_(std::move(inputs)), tasks_(tasks) {}
  /// @brief Experts for T tasks over one input.
  MixtureOfExpertsOptions(int64_t input, int64_t tasks) : inputs_{input}, tasks_(tasks) {}

  /// The widths of the input's parts.
  TORCH_ARG(std::vector<int64_t>, inputs);
  /// T.
  TORCH_ARG(int64_t, tasks);
  /// n, the number of experts; default 8.
  TORCH_ARG(int64_t, experts) = 8;
  /// The widths of an expert's layers; default 128, 64.
  TORCH_ARG(std::vector<int64_t>, expert) = {128, 64};
  /// The widths of a gate's hidden layers; default none: a linear gate.
  TORCH_ARG(std::vector<int64_t>, gate) = {};
  /// Probability in [0, 1) that a gate's entry is dropped in training, never all of one gate's; default 0.
  TORCH_ARG(double, gate_dropout) = 0.0;
  /// Whether all tasks share one gate (OMoE); default false.
  TORCH_ARG(bool, one_gate) = false;
  /// Dropout behind each ReLU of experts and gates, in [0, 1); default 0.
  TORCH_ARG(double, dropout) = 0.0;
  /// Generator of both kinds of dropout; undefined = the default one.
  TORCH_ARG(at::Generator, generator) = {};
};

/// @brief m_t = Σ_e g_te E_e(x), g_t = softmax(gate_t(x)): n experts, MLPs with a ReLU behind every layer, and T gates.
///
/// A gate's last layer is linear and without bias. In training an entry of a gate may be dropped: its weight is 0, and the others are what a softmax of the
/// others gives. **One expert has no gate**: m_t = E(x), a shared bottom.
///
/// **Children.** `experts` and `gates`, each a ParallelMlp: the first layers of all experts are one matrix product, those of all gates another.
/// **Shapes.** parts [B, D_p] → T representations [B, H], H = expert's last width, for `TaskGraph::forward(views)`; with one gate the same tensor T times.
/// **Gradient.** To parts, experts and gates. The mixture's is written by hand on the CPU in fp32 and fp64 (no second derivative there). A task's gate gets
/// that task's gradient alone; in `htl::shared()` name `experts()` where the gates shall count as the tasks' own.
/// **RNG.** Dropout in training mode; on the CPU a draw a layer and one for the gates, the same for any thread count. **Device.** Any; no synchronisation.
/// **Cost.** B·n·(Σ D_p·H_0 + H_0·H_1 + …) multiply-adds forward for the experts, B·T·n·(Σ D_p + H) for linear gates and mixtures.
/// **Reference.** Ma et al., KDD 2018; gate dropout: Zhao et al., RecSys 2019.
class MixtureOfExpertsImpl : public torch::nn::Cloneable<MixtureOfExpertsImpl> {
 public:
  /// @brief Checks the options and makes experts and gates.
  /// @throws c10::ValueError on sizes below 1, no expert layer, or a dropout outside [0, 1)
  explicit MixtureOfExpertsImpl(MixtureOfExpertsOptions mixture_options) : options(std::move(mixture_options)) { reset(); }

  /// @brief Makes experts and gates anew.
  void reset() override {
    HTL_CHECK(options.tasks() >= 1, "htl::MixtureOfExperts: expected at least one task, got ", options.tasks());
    HTL_CHECK(options.experts() >= 1, "htl::MixtureOfExperts: expected at least one expert, got ", options.experts());
    HTL_CHECK(options.gate_dropout() >= 0.0 && options.gate_dropout() < 1.0, "htl::MixtureOfExperts: expected gate_dropout in [0, 1), got ",
              options.gate_dropout());
    const auto mlps = [&](int64_t count, std::vector<int64_t> hidden) {
      return ParallelMlpOptions(options.inputs(), count, std::move(hidden)).dropout(options.dropout()).generator(options.generator());
    };
    experts_ = register_module("experts", ParallelMlp(mlps(options.experts(), options.expert())));
    gates_ = ParallelMlp(nullptr);
    if (options.experts() == 1) return;
    std::vector<int64_t> gate = options.gate();
    gate.push_back(options.experts());
    gates_ = register_module("gates", ParallelMlp(mlps(options.one_gate() ? 1 : options.tasks(), std::move(gate)).linear_output(true)));
  }

  /// @brief Parts [B, D_p] → T representations [B, H].
  /// @throws c10::ValueError on a wrong number or shape of parts
  std::vector<at::Tensor> forward(const std::vector<at::Tensor>& parts) {
    const auto tasks = static_cast<size_t>(options.tasks());
    const at::Tensor experts = experts_->forward(parts);
    if (!gates_) {
      keep(at::ones({experts.size(0), 1}, experts.options()));
      return std::vector<at::Tensor>(tasks, experts);
    }
    const at::Tensor weights =
        detail::gate_weights(gates_->forward(parts), options.experts(), is_training() ? options.gate_dropout() : 0.0, options.generator());
    keep(weights);
    std::vector<at::Tensor> mixed = detail::mix(weights, {experts}, representation_width(), detail::MixReads(options.one_gate() ? 1 : tasks, {0}));
    return options.one_gate() ? std::vector<at::Tensor>(tasks, mixed[0]) : mixed;
  }
  /// @brief The same for one input [B, D].
  std::vector<at::Tensor> forward(const at::Tensor& input) { return forward(std::vector<at::Tensor>{input}); }

  /// @brief The experts: `experts()->forward(parts)` [B, n·H] are their outputs, expert e in columns e·H … (e+1)·H.
  ParallelMlp& experts() { return experts_; }
  /// @brief The gates, T (or one) MLPs that give logits; an empty holder with one expert.
  ParallelMlp& gate_networks() { return gates_; }
  /// @brief H.
  int64_t representation_width() const { return options.expert().back(); }

  /// @brief Whether forward() keeps the gates of its last call for gates(); off by default, and then forward() writes nothing to the module.
  void keep_gates(bool on = true) {
    keeps_gates_ = on;
    kept_gates_ = at::Tensor();
  }
  /// @brief [B, T, n] the gates of the last forward, detached; for expert_load(). Undefined where none were kept.
  const at::Tensor& gates() const { return kept_gates_; }

  /// @brief One line; experts and gates follow below it.
  void pretty_print(std::ostream& stream) const override {
    stream << "htl::MixtureOfExperts(inputs=" << at::IntArrayRef(options.inputs()) << ", tasks=" << options.tasks() << ", experts=" << options.experts()
           << ", expert=" << at::IntArrayRef(options.expert()) << ", gate=" << at::IntArrayRef(options.gate());
    if (options.one_gate()) stream << ", one_gate";
    if (options.gate_dropout() > 0.0) stream << ", gate_dropout=" << options.gate_dropout();
    stream << ")";
  }

  /// The options that it was made with.
  MixtureOfExpertsOptions options;

 private:
  void keep(const at::Tensor& weights) {
    if (!keeps_gates_) return;
    const int64_t rows = weights.size(0), tasks = options.tasks(), experts = options.experts();
    kept_gates_ = weights.detach().view({rows, weights.size(1) / experts, experts}).expand({rows, tasks, experts});
  }

  ParallelMlp experts_{nullptr}, gates_{nullptr};
  bool keeps_gates_ = false;
  at::Tensor kept_gates_;
};
/// Holder of MixtureOfExpertsImpl.
TORCH_MODULE(MixtureOfExperts);

}  // namespace htl
