// SPDX-License-Identifier: Apache-2.0
/// @file lookup.hpp
/// @brief Lookup: the values of a batch's ids in a table, differentiable by rows; the same for tables of ours and of the user.
#pragma once

#include <htl/data/field_batch.hpp>
#include <htl/embedding/row_kernels.hpp>

#include <ATen/ops/_assert_async.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/sparse_coo_tensor.h>
#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/custom_function.h>

#include <string>
#include <utility>
#include <vector>

namespace htl {

/// @brief How the rows of a bag become one.
enum class Pooling {
  sum,  ///< Σ weight · row
  mean  ///< Σ weight · row / Σ weight; zeros for an empty bag
};

/// @brief What happens to an id outside its field.
enum class UnknownIds {
  error,       ///< a sentence with field and row (CUDA: an asynchronous device assertion, no synchronisation)
  map_to_zero  ///< it counts as id 0, the unknown id
};

/// @brief Which rows of a table a field's ids mean: id i is row `first_row + i`, for i in [0, size).
struct FieldRows {
  int64_t first_row = 0;  ///< the row of id 0
  int64_t size = 0;       ///< number of ids
  bool frozen_zero = false;  ///< id 0 is looked up but never trained
  std::string name = {};  ///< for error sentences
};

namespace detail {

/// What a lookup means for backward: which entry hits which row and lands in which bag. Grouped on first use, once.
class LookupData : public torch::CustomClassHolder {
 public:
  LookupData(RowTable looked_up, at::Tensor rows, Bags bags_of_entries, int64_t batch_rows)
      : table(std::move(looked_up)), entry_rows(std::move(rows)), bags(std::move(bags_of_entries)), batch(batch_rows) {}

  const RowGroups& groups() {
    if (!groups_.rows.defined()) groups_ = group_rows(table, entry_rows);
    return groups_;
  }

  RowTable table;
  at::Tensor entry_rows;  // [N]; −1 − row where frozen
  Bags bags;
  int64_t batch;

 private:
  RowGroups groups_;
};

/// Adds {rows, values} to the table's gradient of the step. Rows are distinct; what is there already is merged.
inline void add_row_gradient(const RowTable& table, const at::Tensor& rows, const at::Tensor& values, const at::Tensor& valid) {
  RowGradient& gradient = table.gradient();
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
  const at::Tensor coo = at::sparse_coo_tensor(rows.unsqueeze(0), values, weight.sizes());
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
        LookupData& data = *call->data;
        const RowSums sums = sum_rows(data.groups(), {gradients[0]}, data.bags, data.table.dim(), data.table.weight().options(), false);
        add_row_gradient(data.table, data.groups().rows, sums.sums.squeeze(1).to(data.table.weight().scalar_type()), data.groups().valid);
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
    const auto call = c10::make_intrusive<detail::LookupCall>(data_);
    values_ = detail::LookupFunction::apply(data_->table.weight(), raw_, call);
    auto& live = data_->table.live_lookups();
    std::erase_if(live, [](const auto& entry) { return entry.first.expired(); });
    live.emplace_back(values_.grad_fn(), call);
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

namespace detail {

/// Ids → rows on the CPU, one checked pass.
template <class Id>
void resolve_rows(const Id* ids, const int64_t* offsets, int64_t bags, const std::vector<FieldRows>& fields, UnknownIds unknown, std::optional<int64_t> padding,
                  int32_t* rows, int64_t* bag_of) {
  const auto field_count = static_cast<int64_t>(fields.size());
  const int64_t padding_row = padding.value_or(-1);
  int64_t f = 0;
  for (int64_t bag = 0; bag < bags; ++bag) {
    const FieldRows& field = fields[static_cast<size_t>(f)];
    const int64_t begin = offsets ? offsets[bag] : bag, end = offsets ? offsets[bag + 1] : bag + 1;
    for (int64_t n = begin; n < end; ++n) {
      auto id = static_cast<int64_t>(ids[n]);
      if (static_cast<uint64_t>(id) >= static_cast<uint64_t>(field.size)) {
        HTL_CHECK_INDEX(unknown == UnknownIds::map_to_zero && field.size > 0, "htl::lookup: id ", id, " of field \"", field.name, "\" (row ", bag / field_count,
                        ") is outside [0, ", field.size, "); raise the field's size or set unknown_ids(UnknownIds::map_to_zero)");
        id = 0;
      }
      const int64_t row = field.first_row + id;
      rows[n] = static_cast<int32_t>((id == 0 && field.frozen_zero) || row == padding_row ? -1 - row : row);
      if (bag_of) bag_of[n] = bag;
    }
    if (++f == field_count) f = 0;
  }
}

inline void check_offsets(const int64_t* offsets, int64_t bags, int64_t entries) {
  for (int64_t bag = 0; bag < bags; ++bag)
    HTL_CHECK(offsets[bag] <= offsets[bag + 1] && (bag > 0 || offsets[0] == 0), "htl::lookup: expected offsets that start at 0 and do not decrease, got ",
              offsets[bag], " then ", offsets[bag + 1], " at bag ", bag);
  HTL_CHECK(bags > 0 ? offsets[bags] == entries : entries == 0, "htl::lookup: expected the last offset to be the number of ids, ", entries, ", got ", offsets[bags]);
}

/// weight per entry, divided by the bag's sum for a mean.
inline at::Tensor bag_coefficients(const FieldBatch& batch, const at::Tensor& bag, int64_t bags, Pooling pooling, const at::TensorOptions& options) {
  if (pooling == Pooling::sum) return batch.weights.defined() ? batch.weights.to(options.dtype()).contiguous() : at::Tensor();
  const at::Tensor weights = batch.weights.defined() ? batch.weights.to(at::kDouble) : at::ones_like(bag, at::kDouble);
  const at::Tensor sums = at::zeros({bags}, weights.options()).index_add_(0, bag, weights);
  return (weights / sums.where(sums != 0, 1.0).index_select(0, bag)).to(options.dtype());
}

}  // namespace detail

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
  HTL_CHECK(table.rows() <= std::numeric_limits<int32_t>::max(), "htl::lookup: expected at most 2³¹ − 1 rows in table \"", table.name(), "\", got ", table.rows(),
            "; hash or prune the vocabulary");
  for (const FieldRows& field : fields)
    HTL_CHECK_INDEX(field.first_row >= 0 && field.size >= 0 && field.first_row + field.size <= table.rows(), "htl::lookup: field \"", field.name, "\" has rows [",
                    field.first_row, ", ", field.first_row + field.size, ") but table \"", table.name(), "\" has ", table.rows());
  const c10::AutoGradMode without_graph(false);
  const int64_t rows = batch.rows(), bags = rows * field_count, entries = batch.ids.numel();
  const at::Tensor ids = batch.ids.contiguous();
  detail::Bags bagging{bags, {}, {}};
  at::Tensor entry_rows;
  if (ids.is_cpu()) {
    entry_rows = at::empty({entries}, at::kInt);
    const at::Tensor offsets = batch.offsets.defined() ? batch.offsets.contiguous() : batch.offsets;
    if (offsets.defined()) {
      detail::check_offsets(offsets.const_data_ptr<int64_t>(), bags, entries);
      bagging.bag = at::empty({entries}, at::kLong);
    }
    const int64_t* offset_data = offsets.defined() ? offsets.const_data_ptr<int64_t>() : nullptr;
    int64_t* bag_data = offsets.defined() ? bagging.bag.mutable_data_ptr<int64_t>() : nullptr;
    int32_t* row_data = entry_rows.mutable_data_ptr<int32_t>();
    if (ids.scalar_type() == at::kInt) {
      detail::resolve_rows(ids.const_data_ptr<int32_t>(), offset_data, bags, fields, unknown, table.padding_row(), row_data, bag_data);
    } else {
      detail::resolve_rows(ids.const_data_ptr<int64_t>(), offset_data, bags, fields, unknown, table.padding_row(), row_data, bag_data);
    }
  } else {
    std::vector<int64_t> first, size, frozen;
    for (const FieldRows& field : fields) {
      first.push_back(field.first_row);
      size.push_back(field.size);
      frozen.push_back(field.frozen_zero ? 1 : 0);
    }
    const auto by_field = [&](const std::vector<int64_t>& values) { return at::tensor(values, at::kLong).to(ids.device(), /*non_blocking=*/true); };
    at::Tensor field_of = at::arange(bags, at::TensorOptions(at::kLong).device(ids.device())).remainder(field_count);
    if (batch.offsets.defined()) {
      const at::Tensor starts = at::zeros({entries + 1}, field_of.options()).index_add_(0, batch.offsets, at::ones_like(batch.offsets));
      bagging.bag = starts.slice(0, 0, entries).cumsum(0) - 1;
      field_of = bagging.bag.remainder(field_count);
    }
    const at::Tensor flat = ids.reshape({-1}).to(at::kLong), limit = by_field(size).index_select(0, field_of);
    const at::Tensor known = flat.ge(0).logical_and(flat < limit);
    if (unknown == UnknownIds::error && entries > 0) at::_assert_async(known.all());
    const at::Tensor known_ids = flat.where(known, 0);
    entry_rows = known_ids + by_field(first).index_select(0, field_of);
    at::Tensor is_frozen = (known_ids == 0).logical_and(by_field(frozen).index_select(0, field_of) == 1);
    if (table.padding_row()) is_frozen = is_frozen.logical_or(entry_rows == *table.padding_row());
    entry_rows = entry_rows.where(is_frozen.logical_not(), -1 - entry_rows);
  }
  if (bagging.bag.defined()) bagging.coefficient = detail::bag_coefficients(batch, bagging.bag, bags, pooling, weight.options());
  at::Tensor values = detail::gather_rows(weight, entry_rows, bagging).view({rows, field_count * table.dim()});
  return {c10::make_intrusive<detail::LookupData>(table, std::move(entry_rows), std::move(bagging), rows), std::move(values)};
}

/// @brief The same where every field's ids mean the rows of the table directly: an nn::Embedding or EmbeddingBag of the user's.
inline Lookup lookup(const RowTable& table, const FieldBatch& batch, Pooling pooling = Pooling::sum, UnknownIds unknown = UnknownIds::error) {
  HTL_CHECK(table.defined(), "htl::lookup: expected a table, got an empty RowTable; give it a weight");
  const std::vector<FieldRows> fields(static_cast<size_t>(batch.fields), FieldRows{0, table.rows(), false, table.name()});
  return lookup(table, batch, fields, pooling, unknown);
}

}  // namespace htl
