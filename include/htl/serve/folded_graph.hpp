// SPDX-License-Identifier: Apache-2.0
/// @file folded_graph.hpp
/// @brief FoldedGraph: a TaskGraph for serving, its linear maps multiplied together, and what all rows of a request share computed once.
#pragma once

#include <htl/serve/detail/label_curve.hpp>
#include <htl/serve/detail/mixture.hpp>
#include <htl/transfer/task_graph.hpp>

#include <ATen/ops/cat.h>
#include <ATen/ops/tensor.h>
#include <c10/core/InferenceMode.h>

#include <array>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

namespace htl::inline v0_1_0 {

class FoldedGraph;

/// @brief The memory of one thread that runs a FoldedGraph. Allocated at the first run with a graph; afterwards reused, whatever the number of rows.
class FoldedGraphBuffers {
  friend class FoldedGraph;
  struct Slots {
    at::Tensor first;                                          // [n, Σ H_t] of all first layers
    std::vector<at::Tensor> labels, representations, outputs;  // of each task: [n, K], [n, H], [n, W]; undefined where nothing reads them
    std::vector<at::Tensor> hidden;                            // [n, H_l] of one tower's layers
    detail::MixtureBuffers mixture;
    at::Tensor candidates;  // [n, D]
  };
  std::shared_ptr<const char> graph_;  // the identity of the graph that they are laid out for
  int64_t rows_ = -1;
  at::Tensor arena_, shift_;
  Slots all_, now_;
};

/// @brief The forward of a TaskGraph in evaluation, for rows that share some of their input columns: one user against many candidates.
///
/// Equal to the module's forward up to rounding (the composed maps are formed in fp64): the first layer's product with the shared columns runs once a request;
/// value maps of fusion units are multiplied into the layer that reads them; attention over J sources needs J − 1 products instead of 2 J; a label embedding is
/// K weights times K folded vectors. For HTLNet over 43 fields of 10 of which 31 are shared: 0.126 instead of 0.385 million multiply-adds a row.
///
/// **Values.** A snapshot: later changes of the module do not show. **Parts.** TaskGraph<> with its own towers, label embeddings and fusion units, whatever
/// their options; a graph of your own parts is served by its forward() under c10::InferenceMode. **Threads.** Any number at once, each with its own buffers.
/// **Device.** CPU, fp32 or fp64. **Memory.** No tensor storage is allocated after a thread's first run. Products use LibTorch's threads, loops only one.
class FoldedGraph {
 public:
  /// Rows that run together, so that what flows between the layers stays in a core's cache.
  static constexpr int64_t block = 256;

  /// @brief Folds a graph.
  /// @param graph in any mode; its temperature is that of its present step
  /// @param shared_columns of [view | numeric], which are [D + N]: those that have one value for all rows of a request; rising
  /// @param projected_columns those whose part in the first layers the caller adds himself, see projected_sums(); rising
  /// @throws c10::ValueError for an empty holder, columns outside the input, not rising or in both lists, or a graph not on the CPU in fp32 or fp64
  FoldedGraph(TaskGraph<> graph, const std::vector<int64_t>& shared_columns, const std::vector<int64_t>& projected_columns = {});

  /// @brief The tasks.
  const TaskSet& tasks() const { return tasks_; }
  /// @brief The number of shared columns.
  int64_t shared_width() const { return shared_weight_.size(0); }
  /// @brief The number of the other columns.
  int64_t candidate_width() const { return candidate_weight_.size(0); }
  /// @brief [projected columns, Σ H_t] fp64: what a projected column's value is multiplied by in the first layers.
  const at::Tensor& projected_weight() const { return projected_weight_; }
  /// @brief fp32 or fp64.
  at::ScalarType type() const { return shared_weight_.scalar_type(); }

  /// @brief Computes what the shared columns contribute, for the runs that follow.
  /// @param shared [1, shared_width()]
  /// @param buffers this thread's
  void start(const at::Tensor& shared, FoldedGraphBuffers& buffers) const {
    const c10::InferenceMode inference;
    check_input("the shared columns", shared, 1, shared_width());
    prepare(buffers, buffers.rows_ < 0 ? block : buffers.rows_);
    at::addmm_out(buffers.shift_, shift_, shared, shared_weight_);
  }
  /// @brief Where the other columns of n ≤ block rows go, [n, candidate_width()]; for run().
  at::Tensor& candidates(int64_t rows, FoldedGraphBuffers& buffers) const {
    HTL_CHECK(rows >= 1 && rows <= block, "htl::FoldedGraph: expected 1 to ", block, " rows at a time, got ", rows);
    const c10::InferenceMode inference;
    prepare(buffers, rows);
    return buffers.now_.candidates;
  }
  /// @brief Where the caller puts [n, Σ H_t], the projected columns' values times projected_weight(), before each run(); after candidates(). Only where
  /// there are projected columns: for fields with few rows these sums are sums of rows that were multiplied ahead.
  at::Tensor& projected_sums(FoldedGraphBuffers& buffers) const { return buffers.now_.first; }
  /// @brief The outputs [n, W_t] of every task for the rows in candidates(), after start(); valid until the next run.
  const std::vector<at::Tensor>& run(FoldedGraphBuffers& buffers) const {
    HTL_CHECK_STATE(buffers.graph_ == identity_ && buffers.rows_ > 0,
                    "htl::FoldedGraph: run() expects start() and candidates() with the same buffers before it");
    const c10::InferenceMode inference;
    if (type() == at::kDouble) {
      run_rows<double>(buffers);
    } else {
      run_rows<float>(buffers);
    }
    return buffers.now_.outputs;
  }

 private:
  struct Layer {
    at::Tensor weight, bias;  // [H_{l−1}, H_l], [H_l]
  };
  struct Task {
    std::vector<int64_t> representation_parents, label_parents;
    detail::Mixture representations, labels;
    int64_t first_column = 0, first_width = 0;  // in the product of all first layers
    std::vector<Layer> layers;                  // after the first
    Layer output;                               // weight [W, H]
    size_t representation_layer = 0;
    bool is_read = false;
    std::optional<detail::LabelCurve> label;
  };
  using Slots = FoldedGraphBuffers::Slots;

  void fold(TaskGraph<>& graph, int64_t position, const std::vector<at::Tensor>& columns, std::array<std::vector<at::Tensor>, 4>& parts);
  void check_input(const char* what, const at::Tensor& input, int64_t rows, int64_t width) const {
    check_shape("htl::FoldedGraph", what, input, {rows, width});
    HTL_CHECK_TYPE(input.device().is_cpu() && input.scalar_type() == type(), "htl::FoldedGraph: expected ", what, " on the CPU in ", type(), ", got ",
                   input.scalar_type(), " on ", input.device());
  }
  void prepare(FoldedGraphBuffers& buffers, int64_t rows) const;
  template <class Scalar>
  void run_rows(FoldedGraphBuffers& buffers) const;

  TaskSet tasks_;
  std::vector<Task> folded_;
  at::Tensor shared_weight_, candidate_weight_, projected_weight_, shift_;  // [columns, Σ H_t], [1, Σ H_t]
  std::shared_ptr<const char> identity_ = std::make_shared<char>();         // kept by buffers, so that no other graph can have it
};

inline FoldedGraph::FoldedGraph(TaskGraph<> graph, const std::vector<int64_t>& shared_columns, const std::vector<int64_t>& projected_columns)
    : tasks_([&] {
        HTL_CHECK(!graph.is_empty(), "htl::FoldedGraph: expected a graph, got an empty holder");
        return graph->tasks();
      }()),
      folded_(static_cast<size_t>(tasks_.size())) {
  const at::NoGradGuard no_grad;
  const at::Tensor first = graph->tower(tasks_[0].name())->parameters()[0];
  HTL_CHECK(detail::has_cpu_loops(first), "htl::FoldedGraph: expected a graph on the CPU in fp32 or fp64, got ", first.scalar_type(), " on ", first.device(),
            "; move it by graph->to(torch::kCPU, torch::kFloat), or serve it by its forward() under c10::InferenceMode");
  const int64_t width = graph->options.input_width() + graph->options.numeric_width();
  std::vector<int> role(static_cast<size_t>(width), 1);
  const auto give = [&](const char* what, const std::vector<int64_t>& columns, int given) {
    int64_t last = -1;
    for (const int64_t column : columns) {
      HTL_CHECK(column > last && column < width && role[static_cast<size_t>(column)] == 1, "htl::FoldedGraph: expected ", what, " columns that rise in [0, ",
                width, ") and have no other role, got ", at::IntArrayRef(columns));
      role[static_cast<size_t>(column)] = given;
      last = column;
    }
  };
  give("shared", shared_columns, 0);
  give("projected", projected_columns, 2);
  std::vector<at::Tensor> columns;
  for (int wanted = 0; wanted < 3; ++wanted) {
    std::vector<int64_t> of_role;
    for (int64_t column = 0; column < width; ++column)
      if (role[static_cast<size_t>(column)] == wanted) of_role.push_back(column);
    columns.push_back(at::tensor(of_role, at::kLong));
  }
  std::array<std::vector<at::Tensor>, 4> parts;  // shared, candidates, projected, shift
  int64_t column = 0;
  for (int64_t t = 0; t < tasks_.size(); ++t) {
    fold(graph, t, columns, parts);
    Task& task = folded_[static_cast<size_t>(t)];
    task.first_column = column;
    column += task.first_width;
  }
  const auto joined = [&](const std::vector<at::Tensor>& of_tasks) { return at::cat(of_tasks, 1).to(first.scalar_type()).contiguous(); };
  shared_weight_ = joined(parts[0]);
  candidate_weight_ = joined(parts[1]);
  projected_weight_ = at::cat(parts[2], 1);
  shift_ = joined(parts[3]);
}

inline void FoldedGraph::fold(TaskGraph<>& graph, int64_t position, const std::vector<at::Tensor>& columns, std::array<std::vector<at::Tensor>, 4>& parts) {
  const TaskSpec& spec = tasks_[position];
  const TaskGraphOptions& options = graph->options;
  Task& task = folded_[static_cast<size_t>(position)];
  Tower& tower = graph->tower(spec.name());
  const auto parameters = tower->named_parameters();
  const at::ScalarType type = parameters["layers.0.weight"].scalar_type();
  const auto layer = [&](const std::string& name, bool is_output) {
    const at::Tensor weight = parameters[name + ".weight"].detach();
    return Layer{(is_output ? weight : weight.t()).clone(at::MemoryFormat::Contiguous), parameters[name + ".bias"].detach().clone()};
  };
  const auto hidden = static_cast<int64_t>(tower->options.hidden().size());
  for (int64_t l = 1; l < hidden; ++l) task.layers.push_back(layer("layers." + std::to_string(l), false));
  task.output = layer("output", true);
  task.representation_layer = static_cast<size_t>(tower->options.representation() + (tower->options.representation() < 0 ? hidden : 0));

  const at::Tensor first = parameters["layers.0.weight"].detach().to(at::kDouble);
  at::Tensor shift = parameters["layers.0.bias"].detach().to(at::kDouble);
  task.first_width = first.size(0);
  int64_t column = options.input_width() + options.numeric_width();
  const at::Tensor input = first.narrow(1, 0, column);
  std::vector<at::Tensor> bases;
  for (const int64_t parent : tasks_.parents(position)) {
    const std::string& name = tasks_[parent].name();
    if (has_representation(options.transfer())) task.representation_parents.push_back(parent);
    folded_[static_cast<size_t>(parent)].is_read = folded_[static_cast<size_t>(parent)].is_read || has_representation(options.transfer());
    if (LabelEmbedding& unit = graph->label_embedding(name)) {
      task.label_parents.push_back(parent);
      bases.push_back(unit->weight.detach());
    }
  }
  const auto mix = [&](InformationFusion& unit, const std::vector<at::Tensor>& of_sources) {
    if (unit.is_empty()) return detail::Mixture();
    const int64_t width = unit->options.outputs();
    detail::Mixture mixture(unit, of_sources, first.narrow(1, column, width), type);
    column += width;
    shift = shift + mixture.shift;
    return mixture;
  };
  task.representations = mix(graph->representation_fusion(spec.name()), {});
  task.labels = mix(graph->label_fusion(spec.name()), bases);
  if (LabelEmbedding& unit = graph->label_embedding(spec.name())) task.label.emplace(*unit);
  for (size_t role = 0; role < columns.size(); ++role) parts[role].push_back(input.index_select(1, columns[role]).t());
  parts[3].push_back(shift.unsqueeze(0));
}

/// Lays all buffers out in one arena: first what block rows need, then, for fewer, views of its beginning.
inline void FoldedGraph::prepare(FoldedGraphBuffers& buffers, int64_t rows) const {
  if (buffers.graph_ == identity_ && buffers.rows_ == rows) return;
  if (buffers.graph_ != identity_) {
    const int64_t total = shift_.size(1), alignment = 16;
    int64_t widest = 1, most = 1, offset = 0;
    const auto lay_out = [&](bool counts) {
      offset = 0;
      const auto take = [&](int64_t width) {
        const int64_t start = offset;
        offset += (block * width + alignment - 1) / alignment * alignment;
        return counts ? at::Tensor() : buffers.arena_.narrow(0, start, block * width).view({block, width});
      };
      Slots& slots = buffers.all_;
      slots = Slots();
      slots.candidates = take(candidate_width());
      slots.first = take(total);
      std::vector<int64_t> shared;  // hidden layers that nothing reads, one buffer for all tasks
      for (const Task& task : folded_) {
        for (size_t l = 0; l < task.layers.size(); ++l) {
          shared.resize(std::max(shared.size(), l + 1));
          shared[l] = std::max(shared[l], task.layers[l].weight.size(1));
        }
        slots.labels.push_back(task.label ? take(task.label->classes()) : at::Tensor());
        const bool is_kept = task.is_read && task.representation_layer > 0;
        slots.representations.push_back(is_kept ? take(task.layers[task.representation_layer - 1].weight.size(1)) : at::Tensor());
        slots.outputs.push_back(take(task.output.weight.size(0)));
        widest = std::max({widest, task.first_width, task.label ? task.label->classes() : 1});
        for (const Layer& layer : task.layers) widest = std::max(widest, layer.weight.size(1));
        most = std::max({most, static_cast<int64_t>(task.representation_parents.size()), static_cast<int64_t>(task.label_parents.size())});
      }
      for (const int64_t width : shared) slots.hidden.push_back(take(width));
      slots.mixture = {take(widest), take(widest), take(most), take(detail::Mixture::few)};
    };
    lay_out(true);
    buffers.arena_ = at::zeros({offset}, shift_.options());
    buffers.shift_ = at::empty_like(shift_);
    lay_out(false);
    buffers.graph_ = identity_;
  }
  const auto first_rows = [&](const at::Tensor& slot) { return slot.defined() ? slot.narrow(0, 0, rows) : slot; };
  const auto all_of = [&](const std::vector<at::Tensor>& slots) {
    std::vector<at::Tensor> result;
    for (const at::Tensor& slot : slots) result.push_back(first_rows(slot));
    return result;
  };
  const Slots& all = buffers.all_;
  buffers.now_ = {first_rows(all.first),
                  all_of(all.labels),
                  all_of(all.representations),
                  all_of(all.outputs),
                  all_of(all.hidden),
                  {first_rows(all.mixture.image), first_rows(all.mixture.mixed), first_rows(all.mixture.weights), first_rows(all.mixture.terms)},
                  first_rows(all.candidates)};
  for (size_t t = 0; t < folded_.size(); ++t)  // a first hidden layer is where the common product leaves it
    if (folded_[t].is_read && folded_[t].representation_layer == 0)
      buffers.now_.representations[t] = buffers.now_.first.narrow(1, folded_[t].first_column, folded_[t].first_width);
  buffers.rows_ = rows;
}

template <class Scalar>
void FoldedGraph::run_rows(FoldedGraphBuffers& buffers) const {
  Slots& slots = buffers.now_;
  const int64_t rows = buffers.rows_;
  const auto finish = [&](const at::Tensor& layer, const Scalar* bias) {
    const detail::RowsOf<Scalar> y(layer);
    for (int64_t row = 0; row < rows; ++row) detail::add_row_relu(y[row], bias, y.width);
  };
  if (projected_weight_.size(0) == 0) {
    at::mm_out(slots.first, slots.candidates, candidate_weight_);
  } else if (candidate_width() > 0) {
    at::addmm_out(slots.first, slots.first, slots.candidates, candidate_weight_);
  }
  for (const int64_t position : tasks_.order()) {
    const auto t = static_cast<size_t>(position);
    const Task& task = folded_[t];
    at::Tensor hidden = slots.first.narrow(1, task.first_column, task.first_width);
    const auto sources = [](const std::vector<int64_t>& parents, const std::vector<at::Tensor>& of_tasks) {
      std::vector<at::Tensor> result;
      for (const int64_t parent : parents) result.push_back(of_tasks[static_cast<size_t>(parent)]);
      return result;
    };
    if (!task.representations.is_empty()) task.representations.add_to(hidden, sources(task.representation_parents, slots.representations), slots.mixture);
    const Scalar* const shift = buffers.shift_.const_data_ptr<Scalar>() + task.first_column;
    if (task.labels.few_rows().defined()) {
      const detail::RowsOf<Scalar> y(hidden), matrix(task.labels.few_rows()),
          terms(task.labels.terms(sources(task.label_parents, slots.labels), slots.mixture));
      for (int64_t row = 0; row < rows; ++row) detail::add_rows_relu(y[row], shift, terms[row], matrix.data, task.labels.few_rows().size(0), y.width);
    } else {
      if (!task.labels.is_empty()) task.labels.add_to(hidden, sources(task.label_parents, slots.labels), slots.mixture);
      finish(hidden, shift);
    }
    for (size_t l = 0; l < task.layers.size(); ++l) {
      at::Tensor next =
          task.is_read && task.representation_layer == l + 1 ? slots.representations[t] : slots.hidden[l].narrow(1, 0, task.layers[l].weight.size(1));
      at::mm_out(next, hidden, task.layers[l].weight);
      finish(next, task.layers[l].bias.const_data_ptr<Scalar>());
      hidden = std::move(next);
    }
    const detail::RowsOf<Scalar> x(hidden), w(task.output.weight), out(slots.outputs[t]);
    const Scalar* const bias = task.output.bias.const_data_ptr<Scalar>();
    if (out.width > 4) at::mm_out(slots.outputs[t], hidden, task.output.weight.t());
    for (int64_t row = 0; row < rows; ++row)
      for (int64_t o = 0; o < out.width; ++o) out[row][o] = (out.width > 4 ? out[row][o] : detail::dot(x[row], w[o], x.width)) + bias[o];
    if (!task.label) continue;
    const detail::RowsOf<Scalar> p(slots.labels[t]);
    for (int64_t row = 0; row < rows; ++row) task.label->weights(out[row], p[row]);
  }
}

}  // namespace htl
