// SPDX-License-Identifier: Apache-2.0
/// @file row_adagrad.hpp
/// @brief RowAdagrad: Adagrad on the touched rows of tables, with one accumulator a row.
#pragma once

#include <htl/optim/row_update.hpp>

#include <ATen/ops/where.h>

#include <string>
#include <utility>
#include <vector>

namespace htl::inline v0_1_0 {

/// @brief Settings of RowAdagrad.
struct RowAdagradOptions {
  /// Learning rate.
  double lr = 0.01;
  /// Added to the root of the accumulator; > 0.
  double eps = 1e-10;
  /// L2 regularisation, `g + weight_decay·w`, on touched rows only: a row decays as often as it is looked up.
  double weight_decay = 0;
  /// What the accumulator starts from; it dampens the first updates of a row.
  double initial_accumulator = 0;
  /// One accumulator for every element, as in `torch::optim::Adagrad`, instead of one for a row.
  bool elementwise = false;
};

/// @brief Adagrad over the row gradients of tables: `a_r += mean_j g_rj²`, `w_r −= lr · g_r / (√(a_r + a_0) + eps)`.
///
/// Duchi, Hazan, Singer (JMLR 2011); the accumulator of a whole row is the mean over its d elements, so a row's state is 1 number instead of d.
/// With `elementwise` it equals `torch::optim::Adagrad` (without lr decay) on the dense gradient: untouched rows don't move there either.
///
/// *Contract*: step() reads each table's row gradient and clears it; a table without one is skipped; a table's padding row never changes.
/// *State*: accumulator [R] ([R, d] elementwise), the sum without a_0, in float32 (float64 for float64 tables). It keeps its type when the model is
/// cast; for bfloat16 tables the update is calculated in float32 and rounded once. Its memory is taken from the system as rows are touched.
/// *Overflow*: in float32 the square of an element beyond 1e19 makes its accumulator infinite, and the row (elementwise: the element) stands still ever
/// after, without a word; so it is with LibTorch's Adagrad. htl::clip_grad_norm() before step() keeps such gradients away.
/// *Device*: on the CPU one loop over the touched rows, bit-identical for any number of threads; elsewhere ATen operators without synchronisation and with
/// the learning rate in device memory, so that a CUDA graph can capture a step after one ordinary step. Cost: O(S·d), whatever R.
class RowAdagrad {
 public:
  /// @brief An optimizer for tables.
  /// @param tables a RowTable, several, or modules: `htl::RowAdagrad rows(net->embedding, {.lr = 0.05})`
  /// @param options settings
  /// @throws c10::ValueError on a wrong setting, or without any table
  explicit RowAdagrad(RowTables tables, RowAdagradOptions options = {}) : tables_(std::move(tables)), options_(options), names_(detail::state_names(tables_)) {
    detail::check_rate_eps_decay(kWho, options.lr, options.eps, options.weight_decay);
    HTL_CHECK(std::isfinite(options.initial_accumulator) && options.initial_accumulator >= 0, kWho, ": expected initial_accumulator >= 0 and finite, got ",
              options.initial_accumulator);
    HTL_CHECK(!tables_.empty(), kWho, ": expected at least one row table, got a module without; give it the module that owns the embedding");
    for (const RowTable& table : tables_) {
      detail::check_table(kWho, table);
      states_.push_back({detail::zeros_on_touch(state_shape(table), detail::state_type(table.weight()), table.weight().device()), {}});
      if (!table.weight().is_cpu()) states_.back().lr.on(table.weight().device(), options_.lr);
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
  const RowAdagradOptions& options() const { return options_; }
  /// @brief The tables.
  const RowTables& tables() const { return tables_; }
  /// @brief Calls `visit("TABLE.accumulator", tensor)` for each table; from that alone the state is saved and loaded (settings are not state).
  template <class Visit>
  void fields(Visit&& visit) {
    for (size_t i = 0; i < states_.size(); ++i) visit((names_[i] + ".accumulator").c_str(), states_[i].accumulator);
  }

 private:
  static constexpr const char* kWho = "htl::RowAdagrad";
  struct State {
    at::Tensor accumulator;
    detail::DeviceRate lr;
  };

  std::vector<int64_t> state_shape(const RowTable& table) const {
    return options_.elementwise ? std::vector<int64_t>{table.rows(), table.dim()} : std::vector<int64_t>{table.rows()};
  }
  void update(const RowTable& table, State& state, const at::Tensor& active) const {
    detail::check_state(kWho, table, "the accumulator", state.accumulator, state_shape(table));
    const detail::RowStep step = detail::checked_step(kWho, table, state.accumulator.scalar_type(), active);
    if (step.mask.defined()) return update_by_operators(table, state, step);
    detail::for_types(table.weight().scalar_type(), state.accumulator.scalar_type(), [&]<class W, class S>() { update_by_loop<W, S>(table, state, step); });
    detail::mark_changed(table.weight());
  }

  template <class W, class S>
  void update_by_loop(const RowTable& table, State& state, const detail::RowStep& step) const {
    using P = detail::Wider<W, S>;
    const int64_t slots = step.rows.size(0), d = table.dim(), stride = table.weight().stride(0), width = options_.elementwise ? d : 1;
    const int64_t* const rows = step.rows.const_data_ptr<int64_t>();
    const S* const values = step.values.const_data_ptr<S>();
    W* const weight = table.weight().mutable_data_ptr<W>();
    S* const accumulator = state.accumulator.mutable_data_ptr<S>();
    const P lr = static_cast<P>(options_.lr), eps = static_cast<P>(options_.eps), decay = static_cast<P>(options_.weight_decay),
            initial = static_cast<P>(options_.initial_accumulator);
    at::parallel_for(0, slots, detail::kRowGrain, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        if (i + detail::kRowsAhead < end) {
          const int64_t ahead = rows[i + detail::kRowsAhead];
          detail::prefetch(weight + ahead * stride, d);
          detail::prefetch(accumulator + ahead * width, width);
        }
        if (rows[i] == step.padding) continue;
        const S* const __restrict g = values + i * d;
        W* const __restrict w = weight + rows[i] * stride;
        S* const __restrict a = accumulator + rows[i] * width;
        if (!options_.elementwise) {
          P sum = 0;
          for (int64_t j = 0; j < d; ++j) {
            const P gradient = static_cast<P>(g[j]) + decay * static_cast<P>(w[j]);
            sum += gradient * gradient;
          }
          *a = static_cast<S>(static_cast<P>(*a) + sum / static_cast<P>(d));
          const P rate = lr / (std::sqrt(static_cast<P>(*a) + initial) + eps);
          for (int64_t j = 0; j < d; ++j) {
            const P old = static_cast<P>(w[j]);
            w[j] = detail::rounded<W>(old - rate * (static_cast<P>(g[j]) + decay * old));
          }
        } else {
          for (int64_t j = 0; j < d; ++j) {
            const P old = static_cast<P>(w[j]), gradient = static_cast<P>(g[j]) + decay * old;
            a[j] = static_cast<S>(static_cast<P>(a[j]) + gradient * gradient);
            w[j] = detail::rounded<W>(old - lr * gradient / (std::sqrt(static_cast<P>(a[j]) + initial) + eps));
          }
        }
      }
    });
  }

  // Unused slots and the padding row add zeros, so that rows that appear in several slots come out right.
  void update_by_operators(const RowTable& table, State& state, const detail::RowStep& step) const {
    at::Tensor& weight = table.weight();
    at::Tensor gradient = step.values;
    if (options_.weight_decay > 0) gradient = gradient.add(weight.index_select(0, step.rows).to(gradient.scalar_type()), options_.weight_decay);
    gradient = at::where(step.mask, gradient, at::zeros({}, gradient.options()));
    const at::Tensor square = gradient.square();
    state.accumulator.index_add_(0, step.rows, options_.elementwise ? square : square.mean(1));
    at::Tensor root = state.accumulator.index_select(0, step.rows).add_(options_.initial_accumulator).sqrt_().add_(options_.eps);
    if (!options_.elementwise) root = root.unsqueeze(1);
    const at::Tensor change = gradient.div(root).mul_(state.lr.on(weight.device(), options_.lr)).neg_();
    weight.index_add_(0, step.rows, change.to(weight.scalar_type()));
  }

  RowTables tables_;
  RowAdagradOptions options_;
  std::vector<std::string> names_;
  std::vector<State> states_;
};

}  // namespace htl
