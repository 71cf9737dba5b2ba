// SPDX-License-Identifier: Apache-2.0
/// @file cross_stitch.hpp
/// @brief CrossStitch: a network for each task, whose layers are mixed between the tasks by a matrix that is learnt.
/// Not in the umbrella: include it where it is used.
#pragma once

#include <htl/nn/detail/mix.hpp>
#include <htl/nn/parallel_mlp.hpp>

#include <ATen/ops/full.h>
#include <c10/core/DefaultDtype.h>

namespace htl::inline v0_1_0 {

/// @brief Options of CrossStitch.
///
/// Example: `CrossStitchOptions(430, 3).levels({{128}, {64}}).own(0.9)`
struct CrossStitchOptions {
  /// @brief Levels for T tasks over an input in several parts.
  /// @param inputs the parts' widths
  /// @param tasks T ≥ 1
  CrossStitchOptions(std::vector<int64_t> inputs, int64_t tasks) : inputs_(std::move(inputs)), tasks_(tasks) {}
  /// @brief Levels for T tasks over one input.
  CrossStitchOptions(int64_t input, int64_t tasks) : inputs_{input}, tasks_(tasks) {}

  /// The widths of the input's parts.
  TORCH_ARG(std::vector<int64_t>, inputs);
  /// T.
  TORCH_ARG(int64_t, tasks);
  /// For each level the widths of a task's layers before its stitch; default two levels of one layer: 128, then 64.
  TORCH_ARG(std::vector<std::vector<int64_t>>, levels) = std::vector<std::vector<int64_t>>{{128}, {64}};
  /// A_tt at first; the others of a row share 1 − A_tt equally. Default 0.9; 1 starts with tasks apart. One task has A = [1].
  TORCH_ARG(double, own) = 0.9;
  /// A [T, T] at first, of all levels, instead of what own says; default undefined.
  TORCH_ARG(at::Tensor, initial) = {};
  /// Dropout behind each ReLU, in [0, 1); default 0.
  TORCH_ARG(double, dropout) = 0.0;
  /// Generator of dropout; undefined = the default one.
  TORCH_ARG(at::Generator, generator) = {};
};

/// @brief Level l: h^t = MLP_t(x^t), x^t' = Σ_s A_ts h^s, with a matrix A [T, T] for each level.
///
/// x^t = x at first. **Children.** `level_<l>`: a ParallelMlp of T MLPs. **Parameters.** `stitch_<l>` [T, T].
/// **Shapes.** parts [B, D_p] → T representations [B, H], H = the last level's last width, for `TaskGraph::forward(views)`.
/// **Gradient.** To parts, layers and A. By hand on the CPU in fp32 and fp64 (no second derivative there). **Device.** Any; no synchronisation.
/// **Cost.** T MLPs, and B·T²·H multiply-adds a level. **Reference.** Misra et al., CVPR 2016, with one number for a pair of tasks and level.
class CrossStitchImpl : public torch::nn::Cloneable<CrossStitchImpl> {
 public:
  /// @brief Checks the options and makes the levels.
  /// @throws c10::ValueError without levels or layers, on sizes below 1, or an initial A that is not [T, T]
  explicit CrossStitchImpl(CrossStitchOptions network_options) : options(std::move(network_options)) { reset(); }

  /// @brief Makes the levels anew.
  void reset() override {
    const int64_t tasks = options.tasks();
    HTL_CHECK(tasks >= 1, "htl::CrossStitch: expected at least one task, got ", tasks);
    HTL_CHECK(!options.levels().empty(), "htl::CrossStitch: expected at least one level, got none; give widths such as {{128}, {64}}");
    levels_.clear();
    stitches_.clear();
    std::vector<int64_t> inputs = options.inputs();
    for (size_t l = 0; l < options.levels().size(); ++l) {
      HTL_CHECK(!options.levels()[l].empty(), "htl::CrossStitch: expected at least one layer in level ", l, ", got none");
      levels_.push_back(register_module(
          "level_" + std::to_string(l),
          ParallelMlp(ParallelMlpOptions(inputs, tasks, options.levels()[l]).own_inputs(l > 0).dropout(options.dropout()).generator(options.generator()))));
      const double other = tasks > 1 ? (1.0 - options.own()) / static_cast<double>(tasks - 1) : 0.0;
      at::Tensor stitch = at::full({tasks, tasks}, other, at::TensorOptions().dtype(c10::get_default_dtype()));
      stitch.fill_diagonal_(tasks > 1 ? options.own() : 1.0);
      if (options.initial().defined()) {
        check_shape("htl::CrossStitch", "an initial stitch", options.initial(), {tasks, tasks});
        stitch.copy_(options.initial().detach());
      }
      stitches_.push_back(register_parameter("stitch_" + std::to_string(l), stitch));
      inputs = {options.levels()[l].back()};
    }
  }

  /// @brief Parts [B, D_p] → T representations [B, H].
  /// @throws c10::ValueError on a wrong number or shape of parts
  std::vector<at::Tensor> forward(const std::vector<at::Tensor>& parts) {
    const int64_t tasks = options.tasks();
    std::vector<int64_t> all{0};
    std::vector<at::Tensor> streams = parts;
    for (size_t l = 0; l < levels_.size(); ++l) {
      const at::Tensor hidden = levels_[l]->forward(streams);
      const at::Tensor weights = stitches_[l].view({1, tasks * tasks}).expand({hidden.size(0), tasks * tasks});
      streams = detail::mix(weights, {hidden}, levels_[l]->width(), detail::MixReads(static_cast<size_t>(tasks), all), /*joined=*/l + 1 < levels_.size());
    }
    return streams;
  }
  /// @brief The same for one input [B, D].
  std::vector<at::Tensor> forward(const at::Tensor& input) { return forward(std::vector<at::Tensor>{input}); }

  /// @brief A [T, T] of a level: row t says what task t takes from each task.
  const at::Tensor& stitch(size_t level) const { return stitches_.at(level); }
  /// @brief H.
  int64_t representation_width() const { return options.levels().back().back(); }

  /// @brief One line; the levels follow below it.
  void pretty_print(std::ostream& stream) const override {
    stream << "htl::CrossStitch(inputs=" << at::IntArrayRef(options.inputs()) << ", tasks=" << options.tasks() << ", levels=" << options.levels().size()
           << ", own=" << options.own() << ")";
  }

  /// The options that it was made with.
  CrossStitchOptions options;

 private:
  std::vector<ParallelMlp> levels_;
  std::vector<at::Tensor> stitches_;
};
/// Holder of CrossStitchImpl.
TORCH_MODULE(CrossStitch);

}  // namespace htl
