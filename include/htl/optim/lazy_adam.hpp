// SPDX-License-Identifier: Apache-2.0
/// @file lazy_adam.hpp
/// @brief LazyAdam: Adam on the touched rows of tables.
#pragma once

#include <htl/optim/row_update.hpp>

#include <ATen/ops/pow.h>
#include <ATen/ops/where.h>

#include <algorithm>
#include <limits>
#include <string>
#include <utility>
#include <vector>

namespace htl::inline v0_1_0 {

/// @brief What counts as Adam's time t in the bias correction `1 − β^t`.
enum class BiasCorrection {
  /// The updates of the table, as in dense Adam: the first update of a row that comes late has size lr·(1 − β₁)/√(1 − β₂), 3.2·lr by default.
  global_step,
  /// The updates of the row: its first update has size lr whenever it comes. Costs 4 bytes a row.
  per_row,
};

/// @brief Settings of LazyAdam.
struct LazyAdamOptions {
  /// Learning rate.
  double lr = 1e-3;
  /// Decay of the first moment, in [0, 1).
  double beta1 = 0.9;
  /// Decay of the second moment, in [0, 1).
  double beta2 = 0.999;
  /// Added to the root of the second moment; > 0.
  double eps = 1e-8;
  /// Weight decay on touched rows only: a row decays as often as it is looked up.
  double weight_decay = 0;
  /// `w −= lr·weight_decay·w` apart from the moments (AdamW); false: `g += weight_decay·w` (L2).
  bool decoupled_weight_decay = true;
  /// What counts as t.
  BiasCorrection bias_correction = BiasCorrection::global_step;
};

/// @brief Adam over the row gradients of tables; rows without a gradient keep weight and moments.
///
/// For touched rows `m = β₁m + (1−β₁)g`, `v = β₂v + (1−β₂)g²`, `w −= lr · m/(1−β₁ᵗ) / (√(v/(1−β₂ᵗ)) + eps)`: Kingma and Ba (ICLR 2015), with decoupled
/// decay Loshchilov and Hutter (ICLR 2019). Where every step touches every row this is dense Adam; else it is another algorithm: dense Adam goes on
/// moving a row by its old momentum, and decays its moments, while the row isn't looked up.
///
/// *Contract*: step() reads each table's row gradient and clears it; a table without one is skipped and its t stays; a padding row never changes.
/// *State*: exp_avg and exp_avg_sq [R, d], row_step [R] int32 with `per_row`, in float32 (float64 for float64 tables), and step, an int64 scalar for each
/// table. It keeps its type when the model is cast; for bfloat16 tables the update is calculated in float32 and rounded once. Its memory is taken from the
/// system as rows are touched.
/// *Overflow*: in float32 the square of an element beyond 1e19 makes its second moment infinite, and the element stands still (but for decay) ever after,
/// without a word; so it is with LibTorch's Adam. htl::clip_grad_norm() before step() keeps such gradients away.
/// *Device*: on the CPU one loop over the touched rows, bit-identical for any number of threads; elsewhere ATen operators without synchronisation, with
/// learning rate and t in device memory, so that a CUDA graph can capture a step after one ordinary step. Cost: O(S·d), whatever R.
class LazyAdam {
 public:
  /// @brief An optimizer for tables.
  /// @param tables a RowTable, several, or modules: `htl::LazyAdam rows(net->embedding, {.lr = 1e-3})`
  /// @param options settings
  /// @throws c10::ValueError on a wrong setting, or without any table
  explicit LazyAdam(RowTables tables, LazyAdamOptions options = {}) : tables_(std::move(tables)), options_(options), names_(detail::state_names(tables_)) {
    detail::check_rate_eps_decay(kWho, options.lr, options.eps, options.weight_decay);
    detail::check_betas(kWho, options.beta1, options.beta2);
    HTL_CHECK(!tables_.empty(), kWho, ": expected at least one row table, got a module without; give it the module that owns the embedding");
    for (const RowTable& table : tables_) {
      detail::check_table(kWho, table);
      const at::Device device = table.weight().device();
      const at::ScalarType type = detail::state_type(table.weight());
      State state;
      state.exp_avg = detail::zeros_on_touch({table.rows(), table.dim()}, type, device);
      state.exp_avg_sq = detail::zeros_on_touch({table.rows(), table.dim()}, type, device);
      state.step = at::zeros({}, at::TensorOptions().dtype(at::kLong).device(device));
      if (per_row()) state.row_step = detail::zeros_on_touch({table.rows()}, at::kInt, device);
      if (!device.is_cpu()) state.lr.on(device, options_.lr);
      states_.push_back(std::move(state));
    }
  }

  /// @brief Updates the rows of every table that has a row gradient, and clears it. No synchronisation.
  /// @param active a bool scalar on the tables' device: false = change nothing, but clear (a loss was not finite); undefined = update
  /// @throws c10::ValueError, c10::TypeError, c10::IndexError when a row gradient doesn't fit its table; c10::Error when state doesn't
  void step(const at::Tensor& active = {}) {
    const c10::NoGradGuard no_grad;
    if (detail::is_halted(kWho, active)) return zero_grad();
    for (size_t i = 0; i < tables_.size(); ++i) {
      if (!tables_[i].gradient().defined()) continue;
      update(tables_[i], states_[i], active);
      tables_[i].gradient().clear();
    }
  }
  /// @brief Forgets the row gradients.
  void zero_grad() {
    for (const RowTable& table : tables_) table.gradient().clear();
  }
  /// @brief Sets the learning rate.
  void set_lr(double lr) {
    detail::check_rate_eps_decay(kWho, lr, options_.eps, options_.weight_decay);
    options_.lr = lr;
    for (State& state : states_) state.lr.set(lr);
  }
  /// @brief The learning rate.
  double lr() const { return options_.lr; }
  /// @brief The settings.
  const LazyAdamOptions& options() const { return options_; }
  /// @brief The tables.
  const RowTables& tables() const { return tables_; }
  /// @brief Calls `visit("TABLE.exp_avg", tensor)` and so on for each table; from that alone the state is saved and loaded (settings are not state).
  template <class Visit>
  void fields(Visit&& visit) {
    for (size_t i = 0; i < states_.size(); ++i) {
      visit((names_[i] + ".step").c_str(), states_[i].step);
      visit((names_[i] + ".exp_avg").c_str(), states_[i].exp_avg);
      visit((names_[i] + ".exp_avg_sq").c_str(), states_[i].exp_avg_sq);
      if (per_row()) visit((names_[i] + ".row_step").c_str(), states_[i].row_step);
    }
  }

 private:
  static constexpr const char* kWho = "htl::LazyAdam";
  /// Corrections of rows with more updates than this are calculated one by one.
  static constexpr int64_t kCorrections = 65536;
  struct State {
    at::Tensor step, exp_avg, exp_avg_sq, row_step;
    detail::DeviceRate lr;
  };
  /// What bias correction makes of rate and root: `w −= rate · m / (scale·√v + eps)`.
  struct Correction {
    double rate, scale;
  };

  bool per_row() const { return options_.bias_correction == BiasCorrection::per_row; }
  Correction correction(int64_t t) const {
    const double steps = static_cast<double>(t);
    return {1 / (1 - std::pow(options_.beta1, steps)), 1 / std::sqrt(1 - std::pow(options_.beta2, steps))};
  }

  void update(const RowTable& table, State& state, const at::Tensor& active) {
    detail::check_state(kWho, table, "exp_avg", state.exp_avg, table.weight().sizes());
    detail::check_state(kWho, table, "exp_avg_sq", state.exp_avg_sq, table.weight().sizes());
    detail::check_state(kWho, table, "step", state.step, {});
    if (per_row()) detail::check_state(kWho, table, "row_step", state.row_step, {table.rows()});
    HTL_CHECK_TYPE(state.step.scalar_type() == at::kLong && (!per_row() || state.row_step.scalar_type() == at::kInt) &&
                       state.exp_avg.scalar_type() == state.exp_avg_sq.scalar_type(),
                   kWho, ": the loaded state of table \"", table.name(),
                   "\" has wrong element types; expected int64 step, int32 row_step, one type for the moments");
    const detail::RowStep step = detail::checked_step(kWho, table, state.exp_avg.scalar_type(), active);
    if (step.mask.defined()) return update_by_operators(table, state, step, active);
    const int64_t t = ++*state.step.mutable_data_ptr<int64_t>();
    if (per_row()) extend_corrections(t);
    detail::for_types(table.weight().scalar_type(), state.exp_avg.scalar_type(), [&]<class W, class S>() { update_by_loop<W, S>(table, state, step, t); });
    detail::mark_changed(table.weight());
  }
  // A row has at most as many updates as its table.
  void extend_corrections(int64_t t) {
    for (int64_t next = static_cast<int64_t>(corrections_.size()) + 1; next <= std::min(t, kCorrections); ++next) corrections_.push_back(correction(next));
  }

  template <class W, class S>
  void update_by_loop(const RowTable& table, State& state, const detail::RowStep& step, int64_t t) const {
    using P = detail::Wider<W, S>;
    const int64_t slots = step.rows.size(0), d = table.dim(), stride = table.weight().stride(0);
    const int64_t* const rows = step.rows.const_data_ptr<int64_t>();
    const S* const values = step.values.const_data_ptr<S>();
    W* const weight = table.weight().mutable_data_ptr<W>();
    S* const first = state.exp_avg.mutable_data_ptr<S>();
    S* const second = state.exp_avg_sq.mutable_data_ptr<S>();
    int32_t* const row_step = per_row() ? state.row_step.mutable_data_ptr<int32_t>() : nullptr;
    const P beta1 = static_cast<P>(options_.beta1), beta2 = static_cast<P>(options_.beta2), rest1 = static_cast<P>(1 - options_.beta1),
            rest2 = static_cast<P>(1 - options_.beta2), eps = static_cast<P>(options_.eps),
            coupled = static_cast<P>(options_.decoupled_weight_decay ? 0 : options_.weight_decay),
            keep = static_cast<P>(options_.decoupled_weight_decay ? 1 - options_.lr * options_.weight_decay : 1);
    const Correction of_table = correction(t);
    at::parallel_for(0, slots, detail::kRowGrain, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        if (i + detail::kRowsAhead < end) {
          const int64_t ahead = rows[i + detail::kRowsAhead];
          detail::prefetch(weight + ahead * stride, d);
          detail::prefetch(first + ahead * d, d);
          detail::prefetch(second + ahead * d, d);
          if (row_step) detail::prefetch(row_step + ahead, 1);
        }
        const int64_t row = rows[i];
        if (row == step.padding) continue;
        Correction bias = of_table;
        if (row_step) {
          const int64_t updates = ++row_step[row];
          bias = updates >= 1 && updates <= static_cast<int64_t>(corrections_.size()) ? corrections_[static_cast<size_t>(updates - 1)] : correction(updates);
        }
        const P rate = static_cast<P>(options_.lr * bias.rate), scale = static_cast<P>(bias.scale);
        const S* const __restrict g = values + i * d;
        W* const __restrict w = weight + row * stride;
        S* const __restrict m = first + row * d;
        S* const __restrict v = second + row * d;
        for (int64_t j = 0; j < d; ++j) {
          const P old = static_cast<P>(w[j]), gradient = static_cast<P>(g[j]) + coupled * old;
          const P mean = beta1 * static_cast<P>(m[j]) + rest1 * gradient;
          const P square = beta2 * static_cast<P>(v[j]) + rest2 * gradient * gradient;
          m[j] = static_cast<S>(mean);
          v[j] = static_cast<S>(square);
          w[j] = detail::rounded<W>(keep * old - rate * mean / (scale * std::sqrt(square) + eps));
        }
      }
    });
  }

  // Unused slots and the padding row add zeros, to the state too, so that rows that appear in several slots come out right.
  void update_by_operators(const RowTable& table, State& state, const detail::RowStep& step, const at::Tensor& active) const {
    at::Tensor& weight = table.weight();
    const at::Tensor& rate = state.lr.on(weight.device(), options_.lr);
    const at::ScalarType type = state.exp_avg.scalar_type();
    const at::Tensor zero = at::zeros({}, step.values.options());
    const at::Tensor old = weight.index_select(0, step.rows).to(type), mean = state.exp_avg.index_select(0, step.rows),
                     square = state.exp_avg_sq.index_select(0, step.rows);
    const at::Tensor gradient = options_.decoupled_weight_decay || options_.weight_decay == 0 ? step.values : step.values.add(old, options_.weight_decay);
    const at::Tensor mean_change = at::where(step.mask, gradient.sub(mean).mul_(1 - options_.beta1), zero);
    const at::Tensor finite = step.mask.logical_and(square < std::numeric_limits<double>::infinity());  // an infinite moment stays so: ∞ − ∞ is no number
    const at::Tensor square_change = at::where(finite, gradient.square().sub_(square).mul_(1 - options_.beta2), zero);
    state.exp_avg.index_add_(0, step.rows, mean_change);
    state.exp_avg_sq.index_add_(0, step.rows, square_change);
    if (active.defined() && !active.is_cpu()) {
      state.step.add_(active);
    } else {
      state.step.add_(1);
    }
    at::Tensor t = state.step;
    if (per_row()) {
      state.row_step.index_add_(0, step.rows, step.mask.squeeze(1).to(at::kInt));
      t = state.row_step.index_select(0, step.rows).clamp_min_(1).unsqueeze(1);
    }
    t = t.to(at::kDouble);
    const at::Tensor unbias1 = at::pow(options_.beta1, t).neg_().add_(1), unbias2 = at::pow(options_.beta2, t).neg_().add_(1).sqrt_();
    at::Tensor change =
        mean.add(mean_change).div_(square.add(square_change).sqrt_().div_(unbias2.to(type)).add_(options_.eps)).mul_(rate.div(unbias1).to(type));
    if (options_.decoupled_weight_decay && options_.weight_decay > 0) change = change.add_(old.mul(rate.mul(options_.weight_decay).to(type)));
    weight.index_add_(0, step.rows, at::where(step.mask, change, zero).neg_().to(weight.scalar_type()));
  }

  RowTables tables_;
  LazyAdamOptions options_;
  std::vector<std::string> names_;
  std::vector<State> states_;
  std::vector<Correction> corrections_;
};

}  // namespace htl
