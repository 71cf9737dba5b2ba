// SPDX-License-Identifier: Apache-2.0
/// @file ranker.hpp
/// @brief Ranker: predictions of all tasks for one user against N candidates, without autograd.
#pragma once

#include <htl/embedding/field_embedding.hpp>
#include <htl/serve/detail/gather_fields.hpp>
#include <htl/serve/detail/prediction_rule.hpp>
#include <htl/serve/folded_graph.hpp>

#include <array>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace htl::inline v0_1_0 {

/// @brief The table that a Ranker reads: of a module, or a weight alone, as map_safetensors() gives it.
struct RankerTable {
  /// @brief The table of a module, which it shares.
  RankerTable(const FieldEmbedding& embedding)  // NOLINT(google-explicit-constructor): a module has all that is asked
      : weight(embedding->weight.detach()), fields(embedding->fields()), pooling(embedding->options.pooling()), unknown_ids(embedding->options.unknown_ids()) {}
  /// @brief A weight [Σ sizes, d] and the fields whose rows it holds one after the other.
  template <FieldVocabulary Map>
  RankerTable(at::Tensor table, const Map& features) : weight(std::move(table)) {
    const std::vector<std::string> names = features.names();
    const std::vector<int64_t> sizes = features.sizes();
    int64_t rows = 0;
    for (size_t f = 0; f < sizes.size(); ++f) {
      fields.push_back({rows, sizes[f], false, names[f]});
      rows += sizes[f];
    }
  }
  at::Tensor weight;                                 ///< [R, d] fp64, fp32, fp16 or bf16 on the CPU
  std::vector<FieldRows> fields;                     ///< all fields of the model, in its order
  Pooling pooling = Pooling::sum;                    ///< how bags are reduced
  UnknownIds unknown_ids = UnknownIds::map_to_zero;  ///< what happens to an id outside its field
};

/// @brief Options of Ranker.
///
/// Example: `RankerOptions().shared_fields({"user_id", "hour"}).shared_numeric({0})`
struct RankerOptions {
  /// Fields that have one value for all candidates of a request: the user's and the moment's. Default none.
  TORCH_ARG(std::vector<std::string>, shared_fields) = {};
  /// Numeric columns of which the same is true, by position.
  TORCH_ARG(std::vector<int64_t>, shared_numeric) = {};
  /// Candidates' fields of at most this many rows have their part of all towers' first layers computed once, when the Ranker is made: a lookup and an addition
  /// instead of a product, for Σ H_t numbers of memory a row (HTLNet: 1.5 kB). Default 512; 0 = none.
  TORCH_ARG(int64_t, projected_rows) = 512;
};

/// @brief One user and N candidates.
struct RankRequest {
  FieldBatch shared;                  ///< one row: the ids of the shared fields, in the model's order; may stay undefined where there are none
  FieldBatch candidates;              ///< N rows: the ids of the other fields, in the model's order
  at::Tensor shared_numeric = {};     ///< [1, shared numeric columns]; undefined where there are none
  at::Tensor candidate_numeric = {};  ///< [N, other numeric columns]; undefined where there are none
  Named<at::Tensor> context = {};     ///< columns [N] for losses that predict with them
};

/// @brief The memory of one thread that asks Rankers; whatever they are, and however many candidates.
class RankerBuffers {
  friend class Ranker;
  FoldedGraphBuffers graph_;
  at::Tensor shared_;
  std::vector<int32_t> rows_;
  std::shared_ptr<const char> ranker_;  // the identity of the ranker that they are made for
  int64_t capacity_ = 0;
  std::vector<at::Tensor> results_;
  Predictions predictions_;
};

/// @brief Predictions [N] in the label's unit, as `tasks.predict(graph->forward(embedding->forward(batch)))` gives them, for one user against N candidates.
///
///     const htl::Ranker ranker(net->embedding, net->graph, htl::RankerOptions().shared_fields({"user_id", "hour"}));
///     htl::RankerBuffers buffers;  // one a thread
///     const at::Tensor& watch_time = ranker.rank({.shared = user, .candidates = items}, buffers)["watch_time"];
///
/// **Values.** See FoldedGraph: equal up to rounding, a snapshot of the graph. The table is shared, not copied: don't train it while it serves.
/// **Cost.** O(N): each candidate's fields are read once, with the memory asked for ahead. **Threads.** Any number at once, each with its own buffers.
/// **Memory.** After a thread's first request with the largest N no tensor storage is allocated, except for what a loss of your own allocates in predict(),
/// for bags with weights, and for ids, offsets or numbers whose elements do not lie side by side. Tables larger than memory: map_safetensors().
/// **Device.** CPU; elsewhere use the modules under c10::InferenceMode.
class Ranker {
 public:
  /// @brief Folds a model.
  /// @param table all fields' rows
  /// @param graph reads [fields' embeddings side by side | numeric columns]
  /// @param ranker_options what a request shares, and what is computed ahead
  /// @throws c10::ValueError if graph and table do not fit, or an option names a field or column that is not there; see FoldedGraph
  Ranker(const RankerTable& table, const TaskGraph<>& graph, const RankerOptions& ranker_options = {})
      : Ranker(table, graph, ranker_options, roles_of(table, graph, ranker_options)) {}

  /// @brief Predictions by task name: [N] (multiclass [N, K]), valid until the buffers are used again.
  /// @throws c10::ValueError on wrong shapes, c10::TypeError on wrong types, c10::IndexError on an id outside its field where the table refuses those
  const Predictions& rank(const RankRequest& request, RankerBuffers& buffers) const;
  /// @brief The same as tensors of their own, for callers without buffers.
  Predictions rank(const RankRequest& request) const {
    RankerBuffers buffers;
    return rank(request, buffers);
  }

  /// @brief The tasks.
  const TaskSet& tasks() const { return graph_.tasks(); }
  /// @brief The names of the shared fields, in the order of RankRequest::shared.
  const std::vector<std::string>& shared_fields() const { return names_[0]; }
  /// @brief The names of the candidates' fields, in the order of RankRequest::candidates.
  const std::vector<std::string>& candidate_fields() const { return names_[1]; }

  /// The options that it was made with.
  RankerOptions options;

 private:
  /// What each of [fields | numeric columns] is.
  enum Role : size_t { shared, own, projected };
  using Roles = std::vector<Role>;
  static Roles roles_of(const RankerTable& table, const TaskGraph<>& graph, const RankerOptions& options);
  Ranker(const RankerTable& table, TaskGraph<> graph, RankerOptions ranker_options, const Roles& roles);
  static std::vector<int64_t> columns_of(const RankerTable& table, const Roles& roles, Role wanted);
  /// Numbers of one side: checked, their elements side by side.
  at::Tensor checked_numeric(const char* what, const at::Tensor& numeric, int64_t rows, int64_t width) const;
  void reserve(RankerBuffers& buffers, int64_t rows) const;
  template <class Scalar>
  void rank_rows(const RankRequest& request, RankerBuffers& buffers) const;

  detail::ReadTable table_, projected_;
  FoldedGraph graph_;
  std::shared_ptr<const char> identity_ = std::make_shared<char>();
  std::array<std::vector<std::string>, 2> names_;  // shared, candidates
  std::array<int64_t, 2> numeric_{0, 0};           // shared, candidates
  std::array<detail::FieldReader, 3> readers_;     // shared, the candidates' own, projected
  std::vector<detail::PredictionRule> rules_;
};

inline Ranker::Roles Ranker::roles_of(const RankerTable& table, const TaskGraph<>& graph, const RankerOptions& options) {
  HTL_CHECK(!graph.is_empty(), "htl::Ranker: expected a graph, got an empty holder");
  check_shape("htl::Ranker", "the table", table.weight, {-1, -1});
  const int64_t dim = table.weight.size(1), count = static_cast<int64_t>(table.fields.size());
  std::vector<std::string> names;
  int64_t rows = 0;
  for (const FieldRows& field : table.fields) {
    names.push_back(field.name);
    rows = std::max(rows, field.first_row + field.size);
  }
  HTL_CHECK(rows <= table.weight.size(0), "htl::Ranker: the fields have ", rows, " rows, but the table has ", table.weight.size(0),
            "; give the feature map that it was trained with");
  HTL_CHECK(graph->options.input_width() == count * dim, "htl::Ranker: the graph reads ", graph->options.input_width(), " columns, but ", count, " fields of ",
            dim, " are ", count * dim, "; give the table and the graph of one model");
  std::vector<bool> is_shared(names.size(), false);
  for (const std::string& name : options.shared_fields()) {
    const auto found = std::find(names.begin(), names.end(), name);
    HTL_CHECK(found != names.end(), "htl::Ranker: there is no field \"", name, "\"; did you mean \"", nearest(name, names), "\"? Fields: ", quoted(names));
    HTL_CHECK(!is_shared[static_cast<size_t>(found - names.begin())], "htl::Ranker: the shared field \"", name, "\" is named twice");
    is_shared[static_cast<size_t>(found - names.begin())] = true;
  }
  std::vector<bool> is_shared_number(static_cast<size_t>(graph->options.numeric_width()), false);
  for (const int64_t column : options.shared_numeric()) {
    HTL_CHECK(column >= 0 && column < graph->options.numeric_width(), "htl::Ranker: expected shared numeric columns in [0, ", graph->options.numeric_width(),
              "), got ", column);
    HTL_CHECK(!is_shared_number[static_cast<size_t>(column)], "htl::Ranker: the shared numeric column ", column, " is named twice");
    is_shared_number[static_cast<size_t>(column)] = true;
  }
  Roles roles;
  for (size_t f = 0; f < names.size(); ++f) roles.push_back(is_shared[f] ? shared : table.fields[f].size <= options.projected_rows() ? projected : own);
  for (const bool is_shared_here : is_shared_number) roles.push_back(is_shared_here ? shared : own);
  return roles;
}

/// The columns of [view | numeric] that have a role.
inline std::vector<int64_t> Ranker::columns_of(const RankerTable& table, const Roles& roles, Role wanted) {
  std::vector<int64_t> columns;
  int64_t column = 0;
  for (size_t input = 0; input < roles.size(); ++input)
    for (const int64_t end = column + (input < table.fields.size() ? table.weight.size(1) : 1); column < end; ++column)
      if (roles[input] == wanted) columns.push_back(column);
  return columns;
}

inline Ranker::Ranker(const RankerTable& table, TaskGraph<> graph, RankerOptions ranker_options, const Roles& roles)
    : options(std::move(ranker_options)),
      table_{table.weight.stride(1) == 1 ? table.weight : table.weight.contiguous(), table.pooling, table.unknown_ids},
      projected_{{}, table.pooling, table.unknown_ids},
      graph_(std::move(graph), columns_of(table, roles, shared), columns_of(table, roles, projected)) {
  HTL_CHECK(table_.weight.device().is_cpu() && table_.weight.is_floating_point(), "htl::Ranker: expected a floating-point table on the CPU, got ",
            table_.weight.scalar_type(), " on ", table_.weight.device());
  const int64_t dim = table.weight.size(1);
  std::array<std::vector<FieldRows>, 3> fields;
  std::array<std::vector<int64_t>, 3> positions;
  std::vector<at::Tensor> products;
  int64_t projected_rows = 0;
  for (size_t f = 0; f < table.fields.size(); ++f) {
    const Role role = roles[f];
    FieldRows field = table.fields[f];
    std::vector<std::string>& names = names_[role == shared ? 0 : 1];
    positions[role].push_back(static_cast<int64_t>(names.size()));
    names.push_back(field.name);
    if (role == projected) {
      const at::Tensor weight = graph_.projected_weight().narrow(0, static_cast<int64_t>(products.size()) * dim, dim);
      products.push_back(table_.weight.narrow(0, field.first_row, field.size).to(at::kDouble).mm(weight));
      field.first_row = std::exchange(projected_rows, projected_rows + field.size);
    }
    fields[role].push_back(std::move(field));
  }
  for (const Role role : {shared, own, projected})
    readers_[role] = detail::FieldReader(std::move(fields[role]), std::move(positions[role]), static_cast<int64_t>(names_[role == shared ? 0 : 1].size()));
  if (!products.empty()) projected_.weight = at::cat(products).to(graph_.type());
  for (size_t input = table.fields.size(); input < roles.size(); ++input) ++numeric_[roles[input]];
  for (const TaskSpec& task : tasks()) rules_.emplace_back(task);
  for (const TaskSpec& task : tasks())
    if (!task.losses().empty())
      for (const std::string& read : task.losses().front().loss.reads()) rules_[static_cast<size_t>(tasks().index(read))].leave();
}

inline at::Tensor Ranker::checked_numeric(const char* what, const at::Tensor& numeric, int64_t rows, int64_t width) const {
  if (width == 0) {
    HTL_CHECK(!numeric.defined() || numeric.numel() == 0, "htl::Ranker: got ", what, " of shape ", shape_of(numeric), ", but the model has none there");
    return {};
  }
  check_shape("htl::Ranker", what, numeric, {rows, width});
  HTL_CHECK_TYPE(numeric.device().is_cpu() && numeric.scalar_type() == graph_.type(), "htl::Ranker: expected ", what, " on the CPU in ", graph_.type(),
                 ", got ", numeric.scalar_type(), " on ", numeric.device());
  return numeric.contiguous();
}

inline void Ranker::reserve(RankerBuffers& buffers, int64_t rows) const {
  if (buffers.ranker_ == identity_ && buffers.capacity_ >= rows) return;
  buffers.capacity_ = std::max(rows, buffers.capacity_);
  buffers.results_.clear();
  buffers.predictions_ = Predictions();
  const at::TensorOptions as_graph(graph_.type());
  for (size_t t = 0; t < rules_.size(); ++t) {
    const TaskSpec& task = tasks()[static_cast<int64_t>(t)];
    const bool is_flat = rules_[t].is_known() && task.kind() != TaskKind::multiclass;
    buffers.results_.push_back(is_flat ? at::empty({buffers.capacity_}, as_graph) : at::empty({buffers.capacity_, task.output_width()}, as_graph));
    buffers.predictions_.set(task.name(), buffers.results_.back());
  }
  buffers.shared_ = at::empty({1, graph_.shared_width()}, as_graph);
  buffers.ranker_ = identity_;
}

template <class Scalar>
void Ranker::rank_rows(const RankRequest& request, RankerBuffers& buffers) const {
  const auto fields = [&](size_t side) { return static_cast<int64_t>(names_[side].size()); };
  const FieldBatch candidates = detail::checked_fields("the candidates", request.candidates, fields(1));
  const FieldBatch user = fields(0) > 0 ? detail::checked_fields("the shared fields", request.shared, fields(0)) : FieldBatch();
  HTL_CHECK(fields(0) == 0 || user.rows() == 1, "htl::Ranker: expected one row of shared fields, got ", user.rows(), "; rank one user at a time");
  const int64_t count = candidates.rows(), dim = table_.weight.size(1);
  const std::array<at::Tensor, 2> numbers{checked_numeric("the shared numbers", request.shared_numeric, 1, numeric_[0]),
                                          checked_numeric("the candidates' numbers", request.candidate_numeric, count, numeric_[1])};
  reserve(buffers, count);
  const auto fill = [&](size_t side, const FieldBatch& ids, int64_t first, int64_t rows, const at::Tensor& into) {
    Scalar* const to = into.data_ptr<Scalar>();
    const int64_t stride = into.stride(0);
    if (readers_[side].size() > 0) readers_[side].read(table_, ids, first, rows, to, stride, buffers.rows_);
    const Scalar* const from = numbers[side].defined() ? numbers[side].const_data_ptr<Scalar>() + first * numeric_[side] : nullptr;
    for (int64_t row = 0; from && row < rows; ++row) std::copy_n(from + row * numeric_[side], numeric_[side], to + row * stride + readers_[side].size() * dim);
  };
  fill(shared, user, 0, 1, buffers.shared_);
  graph_.start(buffers.shared_, buffers.graph_);
  const int64_t blocks = (count + FoldedGraph::block - 1) / FoldedGraph::block;
  for (int64_t b = 0; b < blocks; ++b) {
    const int64_t first = count * b / blocks, rows = count * (b + 1) / blocks - first;
    fill(own, candidates, first, rows, graph_.candidates(rows, buffers.graph_));
    if (readers_[projected].size() > 0) {
      const at::Tensor& sums = graph_.projected_sums(buffers.graph_);
      readers_[projected].sum(projected_, candidates, first, rows, sums.data_ptr<Scalar>(), sums.stride(0), buffers.rows_);
    }
    const std::vector<at::Tensor>& outputs = graph_.run(buffers.graph_);
    for (size_t t = 0; t < rules_.size(); ++t) {
      const detail::RowsOf<Scalar> output(outputs[t]);
      Scalar* const to = buffers.results_[t].template data_ptr<Scalar>() + first * buffers.results_[t].stride(0);
      if (rules_[t].is_known()) {
        rules_[t].write(output, rows, to);
      } else {
        for (int64_t row = 0; row < rows; ++row) std::copy_n(output[row], output.width, to + row * output.width);
      }
    }
  }
  TaskOutputs outputs;  // of the tasks whose predictions are not written by a rule
  size_t t = 0;
  for (auto& [name, prediction] : buffers.predictions_) {
    prediction = buffers.results_[t].narrow(0, 0, count);
    if (!rules_[t++].is_known()) outputs.set(name, prediction);
  }
  for (const auto& [name, output] : outputs) *buffers.predictions_.find(name) = tasks().predict(tasks().index(name), output, request.context, &outputs);
}

inline const Predictions& Ranker::rank(const RankRequest& request, RankerBuffers& buffers) const {
  const c10::InferenceMode inference;
  if (graph_.type() == at::kDouble) {
    rank_rows<double>(request, buffers);
  } else {
    rank_rows<float>(request, buffers);
  }
  return buffers.predictions_;
}

}  // namespace htl
