// SPDX-License-Identifier: Apache-2.0
/// @file progressive_layered_extraction.hpp
/// @brief ProgressiveLayeredExtraction (PLE, and CGC with one level): experts of each task's own beside shared ones, level upon level.
/// Not in the umbrella: include it where it is used.
#pragma once

#include <htl/nn/detail/expert_level.hpp>
#include <htl/nn/expert_load.hpp>

namespace htl::inline v0_1_0 {

/// @brief One level of ProgressiveLayeredExtraction.
struct ExtractionLevel {
  std::vector<int64_t> expert = {128, 64};  ///< the widths of an expert's layers
  int64_t specific = 1;                     ///< experts of each task's own; 0 = none
  int64_t shared = 1;                       ///< shared experts; 0 = none
};

/// @brief Options of ProgressiveLayeredExtraction.
///
/// Example: `ProgressiveLayeredExtractionOptions(430, 3).levels({{.expert = {128}}, {.expert = {64}, .specific = 2, .shared = 2}})`
struct ProgressiveLayeredExtractionOptions {
  /// @brief Levels for T tasks over an input in several parts.
  /// @param inputs the parts' widths
  /// @param tasks T ≥ 1
  ProgressiveLayeredExtractionOptions(std::vector<int64_t> inputs, int64_t tasks) : inputs_(std::move(inputs)), tasks_(tasks) {}
  /// @brief Levels for T tasks over one input.
  ProgressiveLayeredExtractionOptions(int64_t input, int64_t tasks) : inputs_{input}, tasks_(tasks) {}

  /// The widths of the input's parts.
  TORCH_ARG(std::vector<int64_t>, inputs);
  /// T.
  TORCH_ARG(int64_t, tasks);
  /// The levels, first to last; default one, which is CGC.
  TORCH_ARG(std::vector<ExtractionLevel>, levels) = {ExtractionLevel{}};
  /// The widths of a gate's hidden layers; default none: linear gates.
  TORCH_ARG(std::vector<int64_t>, gate) = {};
  /// Probability in [0, 1) that a gate's entry is dropped in training, never all of one gate's; default 0.
  TORCH_ARG(double, gate_dropout) = 0.0;
  /// Dropout behind each ReLU of experts and gates, in [0, 1); default 0.
  TORCH_ARG(double, dropout) = 0.0;
  /// Generator of both kinds of dropout; undefined = the default one.
  TORCH_ARG(at::Generator, generator) = {};
};

/// @brief Level l: x^t' = softmax(W^t x^t)·[E^t(x^t); E^s(x^s)] for each task, x^s' = softmax(W^s x^s)·[E^1(x^1); …; E^T(x^T); E^s(x^s)].
///
/// x^t = x^s = x at first. The shared stream reads all experts; it ends before the last level, or where no later level has shared experts. A gate over
/// a single expert does not exist: its weight is 1. Without specific experts a level is MMoE; without shared ones the tasks are apart.
///
/// **Children.** `level_<l>` with `experts_<t>`, `experts_shared`, `gate_<t>`, `gate_shared`, each a ParallelMlp.
/// **Shapes.** parts [B, D_p] → T representations [B, H], H = the last level's last width, for `TaskGraph::forward(views)`.
/// **Gradient.** To parts, experts and gates; task t's loss reaches neither other tasks' last experts nor their gates. By hand on the CPU in fp32 and fp64
/// (no second derivative there). **RNG.** As MixtureOfExperts. **Device.** Any; no synchronisation. **Cost.** A level's experts and gates once each.
/// **Reference.** Tang et al., RecSys 2020 (CGC and PLE). Deviation: experts are MLPs of any depth with a ReLU behind every layer.
class ProgressiveLayeredExtractionImpl : public torch::nn::Cloneable<ProgressiveLayeredExtractionImpl> {
 public:
  /// @brief Checks the options and makes the levels.
  /// @throws c10::ValueError without levels or expert layers, on sizes below 1, a level without experts, or a dropout outside [0, 1)
  explicit ProgressiveLayeredExtractionImpl(ProgressiveLayeredExtractionOptions extraction_options) : options(std::move(extraction_options)) { reset(); }

  /// @brief Makes the levels anew.
  void reset() override {
    constexpr const char* who = "htl::ProgressiveLayeredExtraction";
    HTL_CHECK(options.tasks() >= 1, who, ": expected at least one task, got ", options.tasks());
    HTL_CHECK(!options.levels().empty(), who, ": expected at least one level, got none");
    HTL_CHECK(options.gate_dropout() >= 0.0 && options.gate_dropout() < 1.0, who, ": expected gate_dropout in [0, 1), got ", options.gate_dropout());
    levels_.clear();
    std::vector<int64_t> inputs = options.inputs(), all;
    const int64_t shared = options.tasks();
    for (int64_t s = 0; s <= shared; ++s) all.push_back(s);
    for (size_t l = 0; l < options.levels().size(); ++l) {
      const ExtractionLevel& level = options.levels()[l];
      HTL_CHECK(!level.expert.empty(), who, ": expected at least one layer in the experts of level ", l, ", got none; give widths such as {128, 64}");
      HTL_CHECK(level.specific >= 0 && level.shared >= 0 && level.specific + level.shared >= 1, who, ": expected experts in level ", l, ", got ",
                level.specific, " specific and ", level.shared, " shared ones");
      detail::ExpertLevelOptions made{.inputs = inputs, .tasks = options.tasks(), .expert = level.expert};
      made.counts.assign(static_cast<size_t>(shared), level.specific);
      made.counts.push_back(level.shared);
      for (int64_t t = 0; t < shared; ++t) made.reads.push_back({t, shared});
      const bool is_followed = std::any_of(options.levels().begin() + static_cast<std::ptrdiff_t>(l) + 1, options.levels().end(),
                                           [](const ExtractionLevel& later) { return later.shared > 0; });
      if (is_followed) made.reads.push_back(all);
      made.gate = options.gate();
      made.gate_dropout = options.gate_dropout();
      made.dropout = options.dropout();
      made.generator = options.generator();
      levels_.push_back(register_module("level_" + std::to_string(l), detail::ExpertLevel(made)));
      inputs = {level.expert.back()};
    }
  }

  /// @brief Parts [B, D_p] → T representations [B, H].
  /// @throws c10::ValueError on a wrong number or shape of parts
  std::vector<at::Tensor> forward(const std::vector<at::Tensor>& parts) {
    std::vector<std::vector<at::Tensor>> streams(static_cast<size_t>(options.tasks()) + 1, parts);
    for (detail::ExpertLevel& level : levels_) {
      const std::vector<at::Tensor> out = level->forward(streams);
      for (size_t s = 0; s < out.size(); ++s) streams[s] = {out[s]};
    }
    std::vector<at::Tensor> representations;
    for (size_t t = 0; t < static_cast<size_t>(options.tasks()); ++t) representations.push_back(streams[t][0]);
    return representations;
  }
  /// @brief The same for one input [B, D].
  std::vector<at::Tensor> forward(const at::Tensor& input) { return forward(std::vector<at::Tensor>{input}); }

  /// @brief The experts of a task in a level, or with `task = T` the shared ones: `->forward(x)` [B, n·H] are their outputs. An empty holder for none.
  ParallelMlp experts(size_t level, size_t task) const { return levels_.at(level)->experts(task); }
  /// @brief H.
  int64_t representation_width() const { return options.levels().back().expert.back(); }

  /// @brief Whether forward() keeps the gates of its last call for gates(); off by default, and then forward() writes nothing to the module.
  void keep_gates(bool on = true) {
    for (detail::ExpertLevel& level : levels_) {
      level->keeps_gates = on;
      level->gates.clear();
    }
  }
  /// @brief The gates of the last forward in a level, detached: [B, specific + shared] for each task, its own experts first, then, where there is a shared
  /// stream, [B, T·specific + shared] of its gate. For expert_load(). Empty where none were kept.
  const std::vector<at::Tensor>& gates(size_t level) const { return levels_.at(level)->gates; }

  /// @brief One line; the levels follow below it.
  void pretty_print(std::ostream& stream) const override {
    stream << "htl::ProgressiveLayeredExtraction(inputs=" << at::IntArrayRef(options.inputs()) << ", tasks=" << options.tasks()
           << ", levels=" << options.levels().size() << ")";
  }

  /// The options that it was made with.
  ProgressiveLayeredExtractionOptions options;

 private:
  std::vector<detail::ExpertLevel> levels_;
};
/// Holder of ProgressiveLayeredExtractionImpl.
TORCH_MODULE(ProgressiveLayeredExtraction);

}  // namespace htl
