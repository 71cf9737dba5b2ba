// SPDX-License-Identifier: Apache-2.0
/// @file label_embedding.hpp
/// @brief LabelEmbedding (LEU): a label drawn from the predicted distribution, as an embedding, differentiable; and the concept that replaces it.
#pragma once

#include <htl/nn/detail/keep_value.hpp>
#include <htl/nn/made_from.hpp>
#include <htl/transfer/detail/choice.hpp>
#include <htl/transfer/detail/label_kernels.hpp>
#include <htl/transfer/temperature.hpp>

#include <torch/nn/cloneable.h>
#include <torch/nn/init.h>
#include <torch/nn/pimpl.h>

#include <ostream>

namespace htl::inline v0_1_0 {

/// @brief Noise on the logits in training.
enum class LabelNoise {
  gumbel,  ///< a sample by Gumbel-Softmax (default)
  none     ///< the tempered probability itself
};
/// @brief What a training sample looks like.
enum class LabelHardness {
  soft,             ///< weights between 0 and 1 (default)
  straight_through  ///< one row forward, the soft weights' gradient backward
};
/// @brief The weights in evaluation; all deterministic.
enum class LabelEvaluation {
  expected_soft,  ///< the mean of the soft Gumbel-Softmax weights
  plain,          ///< softmax(z), whatever the temperature
  tempered,       ///< softmax(z / τ)
  argmax          ///< the most probable row
};

namespace detail {
inline const Choices<LabelNoise>& label_noise_names() {
  static const Choices<LabelNoise> names{{"gumbel", LabelNoise::gumbel}, {"none", LabelNoise::none}};
  return names;
}
inline const Choices<LabelHardness>& label_hardness_names() {
  static const Choices<LabelHardness> names{{"soft", LabelHardness::soft}, {"straight_through", LabelHardness::straight_through}};
  return names;
}
inline const Choices<LabelEvaluation>& label_evaluation_names() {
  static const Choices<LabelEvaluation> names{{"expected_soft", LabelEvaluation::expected_soft},
                                              {"plain", LabelEvaluation::plain},
                                              {"tempered", LabelEvaluation::tempered},
                                              {"argmax", LabelEvaluation::argmax}};
  return names;
}
}  // namespace detail

/// @brief A noise by its name: "gumbel", "none".
/// @throws c10::ValueError naming the nearest name
inline LabelNoise label_noise(std::string_view name) { return detail::choose("htl::label_noise", name, detail::label_noise_names()); }
/// @brief The name of a noise.
inline std::string to_string(LabelNoise noise) { return detail::name_of(noise, detail::label_noise_names()); }
/// @brief A hardness by its name: "soft", "straight_through".
/// @throws c10::ValueError naming the nearest name
inline LabelHardness label_hardness(std::string_view name) { return detail::choose("htl::label_hardness", name, detail::label_hardness_names()); }
/// @brief The name of a hardness.
inline std::string to_string(LabelHardness hardness) { return detail::name_of(hardness, detail::label_hardness_names()); }
/// @brief A way of evaluating by its name: "expected_soft", "plain", "tempered", "argmax".
/// @throws c10::ValueError naming the nearest name
inline LabelEvaluation label_evaluation(std::string_view name) { return detail::choose("htl::label_evaluation", name, detail::label_evaluation_names()); }
/// @brief The name of a way of evaluating.
inline std::string to_string(LabelEvaluation evaluation) { return detail::name_of(evaluation, detail::label_evaluation_names()); }

/// @brief Options of LabelEmbedding.
///
/// Example: `LabelEmbeddingOptions(2, 10).temperature(Temperature::exponential(10, 0.9, 5000, 0.5))`
struct LabelEmbeddingOptions {
  /// @brief An embedding of K classes in E dimensions.
  /// @param classes K ≥ 2; 2 = a binary task with one logit
  /// @param dim E ≥ 1
  LabelEmbeddingOptions(int64_t classes = 2, int64_t dim = 10) : classes_(classes), dim_(dim) {}  // NOLINT(google-explicit-constructor)

  /// K.
  TORCH_ARG(int64_t, classes);
  /// E.
  TORCH_ARG(int64_t, dim);
  /// Noise in training; default gumbel.
  TORCH_ARG(LabelNoise, noise) = LabelNoise::gumbel;
  /// Hardness in training; default soft.
  TORCH_ARG(LabelHardness, hardness) = LabelHardness::soft;
  /// τ by training step; default constant 1.
  TORCH_ARG(Temperature, temperature) = Temperature();
  /// Weights in evaluation. Nothing (default) = what training shows on average: expected_soft for soft samples, plain for straight-through samples,
  /// without noise tempered (soft) or argmax (straight-through).
  TORCH_ARG(std::optional<LabelEvaluation>, evaluation) = std::nullopt;
  /// Generator of the noise; undefined = the device's default one. Clones share it.
  TORCH_ARG(at::Generator, generator) = {};
};

/// @brief What can stand in for a LabelEmbedding: a module holder made from LabelEmbeddingOptions.
///
/// - `unit->forward(logits)`: [B, 1] (binary) or [B, K] → [B, E], E = LabelEmbeddingOptions::dim().
template <class U>
concept TaskLabelEmbedding = MadeFrom<U, const LabelEmbeddingOptions&> && requires(U& unit, const at::Tensor& logits) {
  { unit->forward(logits) } -> std::same_as<at::Tensor>;
};

/// @brief Label Embedding Unit: p = softmax((z + g)/τ), result = Σ_k p_k E_k, from logits z, with Gumbel noise g in training.
///
/// Binary, one logit z: q = σ((z + l)/τ) with logistic noise l, result = q E_0 + (1 − q) E_1; **row 0 is the positive class**. K classes: row k is class k.
/// The label is drawn from the *prediction*, so training and serving see the same thing. In evaluation see LabelEvaluation;
/// `expected_soft` is exact at every τ: in closed form for binary tasks at τ = 1, by quadrature (binary to rounding, 1e-15 in fp64; 1e-7 for K > 2, always
/// computed in fp64) otherwise.
///
/// **Shapes.** logits [B, 1] or [B, K] → [B, E] in the table's type. **Gradient.** To the logits and the table; the straight-through form passes the soft
/// weights' gradient; argmax has none to the logits. Finite for every finite logit. No second derivative for fp32 and fp64 binary tasks on the CPU.
/// **RNG.** Binary on the CPU: one draw of the generator a call, the same noise for any thread count. Evaluation draws nothing.
/// **Device.** Any, no synchronisation; the step is counted on the module's device, so that a captured CUDA step anneals when replayed.
/// **State.** Parameter `weight` [K, E], N(0, 1) at first; buffer `step` (int64, training forwards so far; keeps its type through `to`).
/// **Reference.** Tang et al., RecSys 2024; Jang et al. and Maddison et al., ICLR 2017. Deviation: constant τ = 1 by default (at 10 → 0.5 the state is
/// nearly constant), and logits instead of log(clamp(p)).
class LabelEmbeddingImpl : public torch::nn::Cloneable<LabelEmbeddingImpl> {
 public:
  /// @brief Checks the options and makes the table.
  /// @throws c10::ValueError unless K ≥ 2 and E ≥ 1
  explicit LabelEmbeddingImpl(LabelEmbeddingOptions unit_options = {}) : options(std::move(unit_options)) { reset(); }

  /// @brief Makes table and step anew.
  void reset() override {
    HTL_CHECK(options.classes() >= 2, "htl::LabelEmbedding: expected at least 2 classes, got ", options.classes());
    HTL_CHECK(options.dim() >= 1, "htl::LabelEmbedding: expected at least 1 dimension, got ", options.dim());
    weight = register_parameter("weight", at::empty({options.classes(), options.dim()}));
    step = register_buffer("step", at::zeros({}, at::kLong));
    torch::nn::init::normal_(weight);
  }

  /// @brief Logits → label embedding [B, E]; counts a step in training mode.
  at::Tensor forward(const at::Tensor& logits) {
    check_logits(logits);
    const detail::LabelRule rule = next_rule();
    if (detail::has_label_loops(logits, weight, rule))
      return detail::BinaryLabelFunction::apply(logits, weight, rule, rule.is_noisy ? detail::draw_stream(options.generator()) : detail::RandomStream{});
    return detail::label_weights(logits.to(working_type()), rule, options.generator()).to(weight.scalar_type()).matmul(weight);
  }

  /// @brief The weights [B, K] of the rows as forward() would use them now; counts a step and draws noise in training mode just as it does.
  at::Tensor weights(const at::Tensor& logits) {
    check_logits(logits);
    return detail::label_weights(logits.to(working_type()), next_rule(), options.generator());
  }

  /// @brief τ now, on the host. Reads the step: synchronises where the module is on CUDA and τ is not constant.
  double temperature() const { return options.temperature().is_constant() ? options.temperature().at(0) : options.temperature().at(step.item<int64_t>()); }
  /// @brief What evaluation uses, with the default resolved.
  LabelEvaluation evaluation() const {
    if (options.evaluation()) return *options.evaluation();
    const bool soft = options.hardness() == LabelHardness::soft;
    if (options.noise() == LabelNoise::gumbel) return soft ? LabelEvaluation::expected_soft : LabelEvaluation::plain;
    return soft ? LabelEvaluation::tempered : LabelEvaluation::argmax;
  }

  using Module::to;
  /// @brief Moves and casts the table; the step keeps its type and value.
  void to(torch::Device device, torch::Dtype dtype, bool non_blocking = false) override {
    detail::keep_value(step, [&] { Module::to(device, dtype, non_blocking); });
  }
  /// @brief Casts the table; the step keeps its type and value.
  void to(torch::Dtype dtype, bool non_blocking = false) override {
    detail::keep_value(step, [&] { Module::to(dtype, non_blocking); });
  }

  /// @brief One line: classes, width, noise, hardness, temperature, evaluation.
  void pretty_print(std::ostream& stream) const override {
    stream << "htl::LabelEmbedding(classes=" << options.classes() << ", dim=" << options.dim() << ", noise=" << to_string(options.noise())
           << ", hardness=" << to_string(options.hardness()) << ", temperature=" << options.temperature().to_string()
           << ", evaluation=" << to_string(evaluation()) << ")";
  }

  /// The options that it was made with.
  LabelEmbeddingOptions options;
  /// [K, E], one row per class.
  at::Tensor weight;
  /// int64 scalar: training forwards so far.
  at::Tensor step;

 private:
  void check_logits(const at::Tensor& logits) const {
    const int64_t width = options.classes() == 2 ? 1 : options.classes();
    check_shape("htl::LabelEmbedding", options.classes() == 2 ? "one logit a row for a binary task: logits" : "one logit per class: logits", logits,
                {-1, width});
    HTL_CHECK_TYPE(logits.is_floating_point(), "htl::LabelEmbedding: expected floating-point logits, got ", logits.scalar_type());
  }

  at::ScalarType working_type() const { return weight.scalar_type() == at::kDouble ? at::kDouble : at::kFloat; }

  /// How weights are made in this forward; in training mode the step goes on.
  detail::LabelRule next_rule() {
    detail::LabelRule rule;
    const Temperature& schedule = options.temperature();
    if (!is_training()) {
      switch (evaluation()) {
        case LabelEvaluation::expected_soft:
          rule.form = detail::LabelForm::mean;
          break;
        case LabelEvaluation::plain:
          return rule;
        case LabelEvaluation::tempered:
          break;
        case LabelEvaluation::argmax:
          rule.form = detail::LabelForm::argmax;
          return rule;
      }
    } else {
      rule.is_noisy = options.noise() == LabelNoise::gumbel;
      if (options.hardness() == LabelHardness::straight_through) rule.form = detail::LabelForm::straight_through;
    }
    if (schedule.is_constant()) {
      rule.temperature = schedule.at(0);
    } else if (step.device().is_cpu()) {
      rule.temperature = schedule.at(step.item<int64_t>());
    } else {
      rule.device_temperature = schedule.at(step);
    }
    if (is_training()) {
      const at::NoGradGuard no_grad;
      step.add_(1);
    }
    return rule;
  }
};
/// Holder of LabelEmbeddingImpl.
TORCH_MODULE(LabelEmbedding);

}  // namespace htl
