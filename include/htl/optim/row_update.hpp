// SPDX-License-Identifier: Apache-2.0
/// @file row_update.hpp
/// @brief What the row optimizers share: the check of a row gradient, state that costs memory only where it is touched, and element types.
#pragma once

#include <htl/optim/row_tables.hpp>
#include <htl/task/large_memory.hpp>

#include <ATen/Parallel.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>
#include <c10/core/GradMode.h>
#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <cmath>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

namespace htl::inline v0_1_0::detail {

/// Rows that one task of a parallel loop works on; the results don't depend on it.
inline constexpr int64_t kRowGrain = 1024;
/// How many rows ahead of the loop the memory of a row is asked for.
inline constexpr int64_t kRowsAhead = 12;

/// @brief Asks for the memory of a few numbers, to be written soon: the cache lines of the first and of the last.
template <class T>
void prefetch(const T* numbers, int64_t count) {
#if defined(__GNUC__) || defined(__clang__)
  __builtin_prefetch(numbers, 1);
  __builtin_prefetch(reinterpret_cast<const char*>(numbers + count) - 1, 1);
#else
  (void)numbers, (void)count;
#endif
}

/// @brief The element type of an optimizer's state: float64 for float64 weights, else float32.
inline at::ScalarType state_type(const at::Tensor& weight) { return weight.scalar_type() == at::kDouble ? at::kDouble : at::kFloat; }

/// @brief Checks the numbers that all optimizers have.
inline void check_rate_eps_decay(std::string_view who, double lr, double eps, double weight_decay) {
  HTL_CHECK(std::isfinite(lr) && lr >= 0, who, ": expected lr >= 0 and finite, got ", lr);
  HTL_CHECK(std::isfinite(eps) && eps > 0, who, ": expected eps > 0 (a zero gradient on fresh state would give 0/0), got ", eps);
  HTL_CHECK(std::isfinite(weight_decay) && weight_decay >= 0, who, ": expected weight_decay >= 0 and finite, got ", weight_decay);
}

/// @brief Checks an Adam's decay rates.
inline void check_betas(std::string_view who, double beta1, double beta2) {
  HTL_CHECK(beta1 >= 0 && beta1 < 1, who, ": expected beta1 in [0, 1), got ", beta1);
  HTL_CHECK(beta2 >= 0 && beta2 < 1, who, ": expected beta2 in [0, 1), got ", beta2);
}

/// @brief Whether a step's `active` says, readable without synchronisation, that nothing may change. On other devices than the CPU the caller masks.
/// @throws c10::ValueError unless active is undefined or a bool scalar
inline bool is_halted(std::string_view who, const at::Tensor& active) {
  if (!active.defined()) return false;
  HTL_CHECK(active.numel() == 1 && active.scalar_type() == at::kBool, who, ": expected active to be one bool, got ", active.scalar_type(), " of shape ",
            shape_of(active));
  return active.is_cpu() && !*active.const_data_ptr<bool>();
}

/// @brief Checks that `active` lies where it is read.
inline void check_active_device(std::string_view who, const at::Tensor& active, const at::Device& device) {
  HTL_CHECK(active.is_cpu() || active.device() == device, who, ": expected active on the CPU or on ", device, ", got ", active.device());
}

/// @brief A table's name in saved state: its own name, with its position where several tables have the same.
inline std::vector<std::string> state_names(const RowTables& tables) {
  std::vector<std::string> names;
  for (size_t i = 0; i < tables.size(); ++i) {
    bool unique = true;
    for (size_t j = 0; j < tables.size(); ++j) unique = unique && (i == j || tables[i].name() != tables[j].name());
    names.push_back(unique ? tables[i].name() : tables[i].name() + "#" + std::to_string(i));
  }
  return names;
}

/// @brief Checks a table's weight before an optimizer makes state for it.
inline void check_table(std::string_view who, const RowTable& table) {
  const at::ScalarType type = table.weight().scalar_type();
  HTL_CHECK_TYPE(type == at::kDouble || type == at::kFloat || type == at::kBFloat16 || type == at::kHalf, who, ": expected table \"", table.name(),
                 "\" in float64, float32, bfloat16 or float16, got ", type);
}

/// @brief Checks one tensor of a table's state; brings it to the weight's device if the table has moved, and makes it contiguous if loading didn't.
inline void check_state(std::string_view who, const RowTable& table, const char* what, at::Tensor& state, at::IntArrayRef sizes) {
  HTL_CHECK_STATE(state.defined() && state.sizes() == sizes, who, ": ", what, " of table \"", table.name(), "\" has shape ", shape_of(state), ", expected ",
                  sizes, " for a weight of shape ", shape_of(table.weight()),
                  "; the table's shape must not change after the optimizer is made, nor the state's on loading");
  if (state.device() != table.weight().device()) state = state.to(table.weight().device());
  if (!state.is_contiguous()) state = state.contiguous();
}

/// @brief The row gradient of one step, checked. On the CPU, where every slot is in use, this reads the rows; else nothing is read.
struct RowStep {
  at::Tensor rows;    // [S] int64
  at::Tensor values;  // [S, d] in the state's element type
  at::Tensor mask;    // [S, 1] bool: slots in use and not the padding row; undefined = take the loops, with `padding`
  int64_t padding;    // the padding row, or -1
};

/// @brief Checks a table's row gradient.
/// @param who the caller
/// @param table a table whose gradient is defined
/// @param type the element type of the calculation
/// @param active a bool scalar that masks every slot on another device than the CPU; undefined = none
/// @throws c10::ValueError, c10::TypeError, c10::IndexError naming the table
inline RowStep checked_step(std::string_view who, const RowTable& table, at::ScalarType type, const at::Tensor& active = {}) {
  const RowGradient& gradient = table.gradient();
  const std::string owner = std::string(who) + ": table \"" + table.name() + "\"";
  check_shape(owner, "row gradient values", gradient.values, {-1, table.dim()});
  check_shape(owner, "row gradient rows", gradient.rows, {gradient.values.size(0)});
  HTL_CHECK_TYPE(gradient.rows.scalar_type() == at::kLong, owner, ": expected int64 rows, got ", gradient.rows.scalar_type());
  HTL_CHECK_TYPE(gradient.values.is_floating_point(), owner, ": expected floating-point row gradient values, got ", gradient.values.scalar_type());
  const at::Device device = table.weight().device();
  HTL_CHECK(gradient.rows.device() == device && gradient.values.device() == device, owner, ": expected its row gradient on ", device, ", got rows on ",
            gradient.rows.device(), " and values on ", gradient.values.device(), "; run the backward after moving the model");
  const int64_t padding = table.padding_row().value_or(-1);
  RowStep step{gradient.rows.contiguous(), gradient.values.to(type).contiguous(), {}, padding};
  if (gradient.valid.defined()) {
    check_shape(owner, "row gradient valid", gradient.valid, {gradient.values.size(0)});
    HTL_CHECK_TYPE(gradient.valid.scalar_type() == at::kBool, owner, ": expected bool valid, got ", gradient.valid.scalar_type());
    step.mask = gradient.valid;
  }
  if (device.is_cpu()) {
    const int64_t* rows = step.rows.const_data_ptr<int64_t>();
    for (int64_t i = 0; i < step.rows.size(0); ++i) {
      HTL_CHECK_INDEX(rows[i] >= 0 && rows[i] < table.rows(), owner, ": row ", rows[i], " of its row gradient is outside [0, ", table.rows(), ")");
    }
  }
  if (!device.is_cpu() || step.mask.defined() || (table.weight().stride(1) != 1 && table.dim() > 1)) {
    const at::Tensor mask = step.rows.ne(padding);
    if (step.mask.defined()) mask.logical_and_(step.mask);
    if (active.defined() && !active.is_cpu()) {
      check_active_device(who, active, device);
      mask.logical_and_(active);
    }
    step.mask = mask.unsqueeze(1);
  }
  return step;
}

/// @brief Tells autograd that a weight changed under a plain loop, so that a graph made before refuses to run backward.
inline void mark_changed(const at::Tensor& weight) {
  if (!weight.is_inference()) weight.unsafeGetTensorImpl()->bump_version();
}

/// @brief The wider of two element types; the calculation of an update runs in it.
template <class W, class S>
using Wider = std::conditional_t<std::is_same_v<W, double> || std::is_same_v<S, double>, double, float>;

/// @brief A calculated number in a tensor's element type, rounded once (to float32 before a reduced type).
template <class T, class P>
T rounded(P number) {
  if constexpr (std::is_floating_point_v<T>) {
    return static_cast<T>(number);
  } else {
    return static_cast<T>(static_cast<float>(number));
  }
}

/// @brief Calls `f.template operator()<W, S>()` with the element types of a weight and of its state.
template <class F>
void for_types(at::ScalarType weight, at::ScalarType state, F&& f) {
  const auto with_state = [&]<class S>() {
    if (weight == at::kFloat) return f.template operator()<float, S>();
    if (weight == at::kDouble) return f.template operator()<double, S>();
    if (weight == at::kBFloat16) return f.template operator()<c10::BFloat16, S>();
    if (weight == at::kHalf) return f.template operator()<c10::Half, S>();
    HTL_CHECK_TYPE(false, "htl: expected a table in float64, float32, bfloat16 or float16, got ", weight);
  };
  if (state == at::kDouble) return with_state.template operator()<double>();
  HTL_CHECK_TYPE(state == at::kFloat, "htl: expected optimizer state in float32 or float64, got ", state);
  with_state.template operator()<float>();
}

/// @brief A learning rate on a device, where a captured graph reads it; its memory stays the same.
class DeviceRate {
 public:
  /// @brief The rate as a float64 scalar on a device; made on first use.
  const at::Tensor& on(const at::Device& device, double lr) {
    if (!rate_.defined() || rate_.device() != device) rate_ = at::full({}, lr, at::TensorOptions().dtype(at::kDouble).device(device));
    return rate_;
  }
  /// @brief Writes a new rate, if there is a copy on a device.
  void set(double lr) {
    if (rate_.defined()) rate_.fill_(lr);
  }

 private:
  at::Tensor rate_;
};

}  // namespace htl::detail
