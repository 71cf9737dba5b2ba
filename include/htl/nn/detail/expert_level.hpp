// SPDX-License-Identifier: Apache-2.0
/// @file expert_level.hpp
/// @brief One level of streams: experts over each stream's input, and for each output stream a gate over the experts that it reads.
/// Not in the umbrella: it belongs to the headers that include it.
#pragma once

#include <htl/nn/detail/gate_weights.hpp>
#include <htl/nn/detail/mix.hpp>
#include <htl/nn/parallel_mlp.hpp>

#include <ATen/ops/cat.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>

namespace htl::inline v0_1_0::detail {

/// @brief Options of ExpertLevel. Stream T, where there are T tasks, is the shared one.
struct ExpertLevelOptions {
  std::vector<int64_t> inputs = {};              ///< widths of each stream's parts
  int64_t tasks = 1;                             ///< T
  std::vector<int64_t> expert = {};              ///< widths of an expert's layers
  std::vector<int64_t> counts = {};              ///< experts of each stream; 0 = none
  std::vector<std::vector<int64_t>> reads = {};  ///< for each output stream: whose experts it mixes, in the order of its gate
  bool residual = false;                         ///< whether a stream's own experts are added once more, by weights that are learnt
  std::vector<int64_t> gate = {};                ///< widths of a gate's hidden layers
  double gate_dropout = 0.0;                     ///< in [0, 1)
  double dropout = 0.0;                          ///< in [0, 1)
  at::Generator generator = {};                  ///< of both
};

/// @brief out_s = Σ_e softmax(gate_s(x_s))_e E_e + Σ_e v_se E_se, over streams s; see ProgressiveLayeredExtraction and AdaTT.
///
/// Children `experts_<stream>` and `gate_<stream>`, parameters `residual_<stream>`; streams are "0", "1", …, "shared". A gate over one expert does not exist.
class ExpertLevelImpl : public torch::nn::Cloneable<ExpertLevelImpl> {
 public:
  /// @brief Makes experts and gates.
  explicit ExpertLevelImpl(ExpertLevelOptions level_options) : options(std::move(level_options)) { reset(); }

  /// @brief Makes experts and gates anew.
  void reset() override {
    const auto mlps = [&](int64_t count, std::vector<int64_t> hidden) {
      return ParallelMlpOptions(options.inputs, count, std::move(hidden)).dropout(options.dropout).generator(options.generator);
    };
    experts_.clear();
    gates_.clear();
    residuals_.clear();
    blocks_.clear();
    for (size_t s = 0; s < options.counts.size(); ++s) {
      blocks_.push_back(static_cast<int64_t>(experts_.size()));
      if (options.counts[s] > 0) experts_.push_back(register_module("experts_" + name_of(s), ParallelMlp(mlps(options.counts[s], options.expert))));
    }
    for (size_t s = 0; s < options.reads.size(); ++s) {
      std::vector<int64_t> gate = options.gate;
      gate.push_back(readable(s));
      gates_.push_back(gate.back() == 1 ? ParallelMlp(nullptr)
                                        : register_module("gate_" + name_of(s), ParallelMlp(mlps(1, std::move(gate)).linear_output(true))));
      residuals_.emplace_back();
      if (!options.residual || options.counts[s] < 2) continue;
      const double bound = std::sqrt(1.0 / static_cast<double>(options.counts[s]));
      residuals_[s] = register_parameter("residual_" + name_of(s), at::empty({options.counts[s]}).uniform_(-bound, bound));
    }
  }

  /// @brief Each stream's parts → each output stream [B, H].
  std::vector<at::Tensor> forward(const std::vector<std::vector<at::Tensor>>& streams) {
    std::vector<at::Tensor> blocks, weights;
    MixReads reads;
    for (size_t s = 0; s < options.counts.size(); ++s)
      if (options.counts[s] > 0) blocks.push_back(experts_[static_cast<size_t>(blocks_[s])]->forward(streams[s]));
    if (keeps_gates) gates.clear();
    for (size_t s = 0; s < options.reads.size(); ++s) {
      const double gate_dropout = is_training() ? options.gate_dropout : 0.0;
      at::Tensor gate = gates_[s] ? gate_weights(gates_[s]->forward(streams[s]), readable(s), gate_dropout, options.generator)
                                  : at::ones({blocks[0].size(0), 1}, blocks[0].options());
      if (keeps_gates) gates.push_back(gate.detach());
      weights.push_back(options.residual ? gate + residual_row(s, gate) : gate);
      reads.emplace_back();
      for (const int64_t read : options.reads[s])
        if (options.counts[static_cast<size_t>(read)] > 0) reads.back().push_back(blocks_[static_cast<size_t>(read)]);
    }
    return mix(weights.size() == 1 ? weights[0] : at::cat(weights, 1), blocks, options.expert.back(), reads);
  }

  /// @brief The experts of a stream; an empty holder where it has none.
  ParallelMlp experts(size_t stream) const { return options.counts.at(stream) > 0 ? experts_[static_cast<size_t>(blocks_[stream])] : ParallelMlp(nullptr); }
  /// @brief One line; experts and gates follow below it.
  void pretty_print(std::ostream& stream) const override {
    stream << "htl::ExpertLevel(expert=" << at::IntArrayRef(options.expert) << ", counts=" << at::IntArrayRef(options.counts) << ")";
  }

  /// The options that it was made with.
  ExpertLevelOptions options;
  /// Whether forward() keeps its gates.
  bool keeps_gates = false;
  /// The gates [B, n_s] of the last forward, stream by stream, detached.
  std::vector<at::Tensor> gates;

 private:
  std::string name_of(size_t stream) const { return stream < static_cast<size_t>(options.tasks) ? std::to_string(stream) : "shared"; }
  int64_t readable(size_t output) const {
    int64_t count = 0;
    for (const int64_t read : options.reads[output]) count += options.counts[static_cast<size_t>(read)];
    return count;
  }
  /// v_s in the columns of the stream's own experts, 0 in the others; 1 for a single own expert.
  at::Tensor residual_row(size_t stream, const at::Tensor& like) const {
    std::vector<at::Tensor> row;
    for (const int64_t read : options.reads[stream]) {
      const int64_t count = options.counts[static_cast<size_t>(read)];
      if (static_cast<size_t>(read) != stream) {
        row.push_back(at::zeros({count}, like.options()));
      } else {
        row.push_back(residuals_[stream].defined() ? residuals_[stream].to(like.scalar_type()) : at::ones({count}, like.options()));
      }
    }
    return at::cat(row);
  }

  std::vector<ParallelMlp> experts_, gates_;
  std::vector<at::Tensor> residuals_;
  std::vector<int64_t> blocks_;  // where a stream's experts are in experts_
};
/// Holder of ExpertLevelImpl.
TORCH_MODULE(ExpertLevel);

}  // namespace htl::detail
