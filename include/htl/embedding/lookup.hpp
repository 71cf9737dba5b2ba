// SPDX-License-Identifier: Apache-2.0
/// @file lookup.hpp
/// @brief Lookup: the values of a batch's ids in a table, differentiable by rows; the same for tables of ours and of the user.
#pragma once

#include <htl/embedding/resolve_rows.hpp>
#include <htl/embedding/row_kernels.hpp>
#include <htl/task/tensor_operators.hpp>

#include <ATen/TensorOperators.h>
#include <ATen/ops/sparse_coo_tensor.h>
#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/custom_function.h>

#include <string>
#include <utility>
#include <vector>

namespace htl::inline v0_1_0 {

namespace detail {

/// What a lookup means for backward: which entry hits which row and lands in which bag. Grouped on first use, once.
class LookupData : public torch::CustomClassHolder {
 public:
  LookupData(RowTable looked_up, at::Tensor rows, Bags bags_of_entries, int64_t batch_rows)
      : table(std::move(looked_up)), entry_rows(std::move(rows)), bags(std::move(bags_of_entries)), batch(batch_rows), table_rows_(table.rows()) {}

  const RowGroups& groups() {
    HTL_CHECK_STATE(table.rows() == table_rows_, "htl::Lookup: table \"", table.name(), "\" had ", table_rows_, " rows when it was looked up and has ",
                    table.rows(), " in backward; compute the forward again");
    if (!groups_.rows.defined()) groups_ = group_rows(table, entry_rows);
    return groups_;
  }

  RowTable table;
  at::Tensor entry_rows;  // [N]; −1 − row where frozen
  Bags bags;
  int64_t batch;

 private:
  int64_t table_rows_;
  RowGroups groups_;
};

/// Adds {rows, values} to the table's gradient of the step. Rows are distinct; what is there already is merged.
inline void add_row_gradient(const RowTable& table, const at::Tensor& rows, const at::Tensor& values, const at::Tensor& valid) {
  RowGradient& gradient = table.gradient();
  if (table.was_zeroed()) gradient.clear();  // the foreign optimizer's zero_grad() means both
  if (!gradient.defined()) {
    gradient = {rows, values, valid};
  } else {
    const auto mark = [](const at::Tensor& r, const at::Tensor& v) { return v.defined() ? r.where(v, -1) : r; };
    at::Tensor entries = at::cat({mark(gradient.rows, gradient.valid), mark(rows, valid)});
    if (entries.is_cpu()) entries = entries.to(at::kInt);
    const RowGroups groups = group_rows(table, entries);
    const RowSums merged = sum_rows(groups, {at::cat({gradient.values, values})}, {}, table.dim(), values.options(), false);
    gradient = {groups.rows, merged.sums.squeeze(1).to(values.scalar_type()), groups.valid};
  }
  if (!table.coo_gradient()) return;
  const at::Tensor& weight = table.weight();
  const at::Tensor coo = at::sparse_coo_tensor(rows.unsqueeze(0), values.clone(), weight.sizes());
  at::Tensor& grad = weight.mutable_grad();
  grad = grad.defined() ? grad + coo : coo;
}

/// The node of one differentiable lookup. While backward() runs it can ask the node to hand over its gradient instead of writing it to the table.
class LookupCall : public torch::CustomClassHolder {
 public:
  explicit LookupCall(c10::intrusive_ptr<LookupData> looked_up) : data(std::move(looked_up)) {}
  c10::intrusive_ptr<LookupData> data;
  bool collecting = false;
  at::Tensor collected;
};

inline void refuse_second_derivative(const char* who) {
  HTL_CHECK_STATE(!c10::GradMode::is_enabled(), who, ": second derivatives (create_graph) are not offered; differentiate without create_graph");
}

/// A lookup's gradient [B, D] as row gradient of its table.
inline void write_row_gradient(LookupData& data, const at::Tensor& gradient) {
  const RowSums sums = sum_rows(data.groups(), {gradient}, data.bags, data.table.dim(), data.table.weight().options(), false);
  add_row_gradient(data.table, data.groups().rows, sums.sums.squeeze(1).to(data.table.weight().scalar_type()), data.groups().valid);
}

struct LookupFunction : torch::autograd::Function<LookupFunction> {
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& /*weight*/, const at::Tensor& values,
                            const c10::intrusive_ptr<LookupCall>& call) {
    context->set_materialize_grads(false);
    context->saved_data["call"] = c10::IValue::make_capsule(call);
    return values.view(values.sizes());
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context, const torch::autograd::variable_list& gradients) {
    refuse_second_derivative("htl::Lookup");
    if (gradients[0].defined()) {
      const auto call = c10::static_intrusive_pointer_cast<LookupCall>(context->saved_data["call"].toCapsule());
      if (call->collecting) {
        call->collected = call->collected.defined() ? call->collected + gradients[0] : gradients[0];
      } else {
        write_row_gradient(*call->data, gradients[0]);
      }
    }
    return {at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

}  // namespace detail

/// @brief A batch's looked-up rows: plain numbers until somebody asks for `values()`, or hands it to a gradient fork.
///
/// A value type; copies share everything. The row gradient goes to the table's RowGradient, not to `weight.grad()`.
class Lookup {
 public:
  /// @brief Wraps looked-up numbers; made by lookup().
  Lookup(c10::intrusive_ptr<detail::LookupData> data, at::Tensor raw) : data_(std::move(data)), raw_(std::move(raw)) {}

  /// @brief [B, D] the values, differentiable with respect to the table's rows.
  ///
  /// **Gradient**: to the touched rows (bags by their coefficients, frozen rows left out), as one RowGradient; nothing flows to ids or weights.
  /// Under no-grad or inference mode, or for a table that does not require a gradient: the plain numbers. **Cost**: backward O(B·F·d); rows are
  /// grouped once for all users of this lookup.
  const at::Tensor& values() {
    if (values_.defined() || !requires_grad()) return values_.defined() ? values_ : raw_;
    values_ = detail::LookupFunction::apply(data_->table.weight(), raw_, c10::make_intrusive<detail::LookupCall>(data_));
    return values_;
  }
  /// @brief [B, D] the plain numbers, without a graph. Changing them in place changes every view of this lookup.
  const at::Tensor& raw() const { return raw_; }
  /// @brief Whether a gradient would flow.
  bool requires_grad() const { return c10::GradMode::is_enabled() && data_->table.weight().requires_grad(); }
  /// @brief The table.
  const RowTable& table() const { return data_->table; }
  /// @brief B.
  int64_t rows() const { return data_->batch; }
  /// @brief D.
  int64_t width() const { return raw_.size(1); }
  /// @brief The grouping by table row; made on first use.
  const RowGroups& groups() const { return data_->groups(); }
  /// @brief What backward needs; for forks.
  const c10::intrusive_ptr<detail::LookupData>& data() const { return data_; }

 private:
  c10::intrusive_ptr<detail::LookupData> data_;
  at::Tensor raw_, values_;
};

/// @brief Looks up a batch's ids in a table.
/// @param table one of ours or the user's own (`htl::RowTable(weight)`)
/// @param batch ids of F fields; short form or bags
/// @param fields which rows each field's ids mean; F entries
/// @param pooling how bags are reduced (long form only)
/// @param unknown what happens to ids outside their field
/// @return values [B, F·d], field by field
/// @throws c10::IndexError for an id outside its field (CPU); c10::ValueError for a wrong number of fields, offsets that decrease, ids on another device
///
/// **Device**: that of the table; no synchronisation on CUDA. **Cost**: O(N·d), independent of the table's size. At most 2³¹ − 1 rows.
inline Lookup lookup(const RowTable& table, const FieldBatch& batch, const std::vector<FieldRows>& fields, Pooling pooling = Pooling::sum,
                     UnknownIds unknown = UnknownIds::error) {
  HTL_CHECK(table.defined(), "htl::lookup: expected a table, got an empty RowTable; give it a weight");
  const at::Tensor& weight = table.weight();
  const auto field_count = static_cast<int64_t>(fields.size());
  HTL_CHECK(batch.ids.defined() && batch.fields == field_count, "htl::lookup: expected ids of ", field_count, " fields, got ", batch.fields, " (ids ",
            shape_of(batch.ids), "); build the batch with the feature map that the table was made for");
  HTL_CHECK(batch.ids.device() == weight.device(), "htl::lookup: expected ids on the table's device ", weight.device(), ", got ", batch.ids.device(),
            "; move the batch with batch.to(device)");
  HTL_CHECK(table.rows() <= std::numeric_limits<int32_t>::max(), "htl::lookup: expected at most 2³¹ − 1 rows in table \"", table.name(), "\", got ",
            table.rows(), "; hash or prune the vocabulary");
  for (const FieldRows& field : fields)
    HTL_CHECK_INDEX(field.first_row >= 0 && field.size >= 0 && field.first_row + field.size <= table.rows(), "htl::lookup: field \"", field.name,
                    "\" has rows [", field.first_row, ", ", field.first_row + field.size, ") but table \"", table.name(), "\" has ", table.rows());
  detail::check_batch(batch, field_count);
  const c10::AutoGradMode without_graph(false);
  const int64_t rows = batch.rows(), bags = rows * field_count;
  auto [entry_rows, bag] = batch.ids.is_cpu() ? detail::resolve_loops(table, batch, fields, unknown) : detail::resolve_tensors(table, batch, fields, unknown);
  detail::Bags bagging{bags, std::move(bag), {}};
  if (bagging.bag.defined()) bagging.coefficient = detail::bag_coefficients(table, batch, entry_rows, bagging.bag, bags, pooling);
  at::Tensor values = detail::gather_rows(weight, entry_rows, bagging).view({rows, field_count * table.dim()});
  return {c10::make_intrusive<detail::LookupData>(table, std::move(entry_rows), std::move(bagging), rows), std::move(values)};
}

/// @brief The same where every field's ids mean the rows of the table directly: an nn::Embedding or EmbeddingBag of the user's.
///
/// `RowTable(module->weight, "items", {.padding_row = padding_idx})` means what the module means: one id a field (short form) looks the padding row up as
/// nn::Embedding does; bags (long form) leave it out as nn::EmbeddingBag does. Weights with a mean, which nn::EmbeddingBag refuses, give the weighted mean.
/// There is no maximum, no `max_norm` and no `scale_grad_by_freq`.
inline Lookup lookup(const RowTable& table, const FieldBatch& batch, Pooling pooling = Pooling::sum, UnknownIds unknown = UnknownIds::error) {
  HTL_CHECK(table.defined(), "htl::lookup: expected a table, got an empty RowTable; give it a weight");
  const std::vector<FieldRows> fields(static_cast<size_t>(batch.fields), FieldRows{0, table.rows(), false, table.name()});
  return lookup(table, batch, fields, pooling, unknown);
}

/// @brief A table for each feature: `batches[i]`, ids of one or more fields, in `tables[i]`; for a fork's split().
/// @throws c10::ValueError unless there are as many batches as tables; what lookup() throws
inline std::vector<Lookup> lookup(const std::vector<RowTable>& tables, const std::vector<FieldBatch>& batches, Pooling pooling = Pooling::sum,
                                  UnknownIds unknown = UnknownIds::error) {
  HTL_CHECK(tables.size() == batches.size(), "htl::lookup: expected ids for each of the ", tables.size(), " tables, got ", batches.size(), " batches");
  std::vector<Lookup> lookups;
  for (size_t i = 0; i < tables.size(); ++i) lookups.push_back(lookup(tables[i], batches[i], pooling, unknown));
  return lookups;
}

}  // namespace htl
