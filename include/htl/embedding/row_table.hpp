// SPDX-License-Identifier: Apache-2.0
/// @file row_table.hpp
/// @brief RowTable: a table of embedding rows, with the row gradient of the current step; shared by lookups, forks and optimizers.
#pragma once

#include <htl/embedding/row_gradient.hpp>

#include <ATen/ops/tensor.h>

#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

namespace htl::inline v0_1_0 {

/// @brief Options of RowTable; write it with designated initialisers.
struct RowTableOptions {
  /// A row that is never trained and never enters a Gramian, as `padding_idx` of LibTorch's modules: looked up where a field has one id (nn::Embedding), left
  /// out of bags, also of a mean's denominator (nn::EmbeddingBag).
  std::optional<int64_t> padding_row = std::nullopt;
  /// See RowTable::coo_gradient().
  bool coo_gradient = false;
};

/// @brief A handle to a table [R, d]: copies share the weight and its row gradient. Works on any leaf tensor, one of ours or the user's own.
///
/// `Module::to` and `load` change the weight in place, so a handle stays valid through them.
class RowTable {
 public:
  /// @brief No table.
  RowTable() = default;
  /// @brief A table over a weight that somebody owns.
  /// @param weight [R, d] floating-point leaf
  /// @param name for error sentences
  /// @param options `{.padding_row = 0}`, `{.coo_gradient = true}`
  /// @throws c10::ValueError on a wrong shape or padding row, or for the result of an operation; c10::TypeError unless floating point
  explicit RowTable(at::Tensor weight, std::string name = "table", RowTableOptions options = {}) : state_(std::make_shared<State>()) {
    check_shape("htl::RowTable", "the weight of \"" + name + "\"", weight, {-1, -1});
    HTL_CHECK_TYPE(weight.is_floating_point(), "htl::RowTable: expected floating-point weight for \"", name, "\", got ", weight.scalar_type());
    HTL_CHECK(weight.is_leaf(), "htl::RowTable: expected a leaf tensor as the weight of \"", name, "\", got the result of an operation; ",
              "give it the parameter itself");
    const std::optional<int64_t>& padding_row = options.padding_row;
    HTL_CHECK(!padding_row || (*padding_row >= 0 && *padding_row < weight.size(0)), "htl::RowTable: padding row ", padding_row.value_or(0), " of \"", name,
              "\" is outside [0, ", weight.size(0), ")");
    state_->weight = std::move(weight);
    state_->name = std::move(name);
    state_->options = options;
  }

  /// @brief Whether there is a table.
  bool defined() const { return state_ != nullptr; }
  /// @brief The weight [R, d].
  at::Tensor& weight() const { return state_->weight; }
  /// @brief R.
  int64_t rows() const { return state_->weight.size(0); }
  /// @brief d.
  int64_t dim() const { return state_->weight.size(1); }
  /// @brief For error sentences.
  const std::string& name() const { return state_->name; }
  /// @brief The frozen row, if any.
  const std::optional<int64_t>& padding_row() const { return state_->options.padding_row; }
  /// @brief The gradient of the current step.
  RowGradient& gradient() const { return state_->gradient; }
  /// @brief Whether backward also hands the row gradient to `weight().grad()` as a sparse COO tensor, for optimizers that know only that.
  /// Their zero_grad() then clears both: a row gradient is dropped when `.grad()` is undefined, or zeroed, at the next backward. clip_grad_norm() scales both.
  /// Costs a copy of rows and values a step, and such an optimizer sorts the rows again: LibTorch drops the coalesced flag.
  bool coo_gradient() const { return state_->options.coo_gradient; }
  /// @brief Whether a foreign optimizer's zero_grad() has dropped what gradient() still holds.
  bool was_zeroed() const {
    if (!coo_gradient()) return false;
    const at::Tensor& grad = weight().grad();
    return !grad.defined() || (grad.is_sparse() && grad._nnz() == 0);
  }
  /// @brief CPU scratch of the row grouping: [R] int32, −1 between uses; made on first use. 4 bytes a row.
  std::vector<int32_t>& slot_scratch() const { return state_->slot_of_row; }
  /// @brief A vector of numbers on a device, copied there once per table; several threads may ask at once.
  at::Tensor on_device(const std::vector<int64_t>& numbers, const at::Device& device) const {
    const std::lock_guard<std::mutex> lock(state_->copies_mutex);
    for (const auto& [key, copy] : state_->copies)
      if (key == numbers && copy.device() == device) return copy;
    if (state_->copies.size() >= 64) state_->copies.clear();
    return state_->copies.emplace_back(numbers, at::tensor(numbers, at::kLong).to(device)).second;
  }
  /// @brief How often this table's lookups have been grouped by row; tests prove that nothing is grouped twice.
  int64_t& groupings() const { return state_->groupings; }
  /// @brief Whether two handles share one table.
  bool is_same(const RowTable& other) const { return state_ == other.state_; }

 private:
  struct State {
    at::Tensor weight;
    std::string name;
    RowTableOptions options;
    RowGradient gradient;
    std::vector<int32_t> slot_of_row;
    std::mutex copies_mutex;
    std::vector<std::pair<std::vector<int64_t>, at::Tensor>> copies;
    int64_t groupings = 0;
  };
  std::shared_ptr<State> state_;
};

/// @brief A module that owns row tables; optimizers and dense_parameters() ask for them through this.
class RowTableOwner {
 public:
  virtual ~RowTableOwner() = default;
  /// @brief Handles to the module's tables.
  virtual std::vector<RowTable> row_tables() const = 0;
};

}  // namespace htl
