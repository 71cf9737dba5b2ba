// SPDX-License-Identifier: Apache-2.0
/// @file weight_average.hpp
/// @brief WeightAverage: exponential or stochastic averages of dense parameters and of row tables, at the cost of touched rows.
#pragma once

#include <htl/optim/move_towards.hpp>
#include <htl/optim/row_update.hpp>

#include <ATen/ops/where.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

namespace htl::inline v0_1_0 {

/// @brief Settings of WeightAverage.
struct WeightAverageOptions {
  /// In (0, 1): exponential average, `A = decay·A + (1 − decay)·w` for each sample. 0: the mean of all samples (SWA).
  double decay = 0.999;
  /// The first sample is taken after this many steps; before, the average is the weights.
  int64_t start = 0;
  /// A sample is taken every so many steps; for the mean usually the steps of an epoch.
  int64_t every = 1;
};

/// @brief The average of a model's weights over training, to be evaluated in their place.
///
/// Samples are the weights after start, start + every, … steps (0 steps: the initial weights); the average is *exactly* that of the dense definition, for
/// table rows too, although a step costs only its touched rows: a row that hasn't been touched since sample `k` had one value w in all later samples,
/// so at sample n it is `A = A_k + p·(w − A_k)`, p = 1 − decay^(n−k), or 1 − k/n for the mean. That is done when the row is touched next, and for the rest in
/// apply(). Exponential: Polyak and Juditsky (1992), with the initial weights as its first value; mean: Izmailov et al., SWA (UAI 2018).
///
/// *Contract*: call update() once a step, after backward and **before** the optimizers' step(), which changes the weights and clears the row gradients.
/// *State*: average in float32 (float64 for float64 weights) and int32 sample numbers a row, whose memory is taken as rows are touched; step (int64).
/// *Device*: no synchronisation in update(). Cost: O(S·d + dense parameters), whatever R. apply() passes over whole tables.
class WeightAverage {
 public:
  /// @brief While it lives, the weights are the averages; its end brings the training weights back, bit for bit.
  class [[nodiscard]] Guard {
   public:
    /// @brief Moves the duty to restore.
    Guard(Guard&& other) noexcept : average_(std::exchange(other.average_, nullptr)) {}
    Guard(const Guard&) = delete;
    Guard& operator=(const Guard&) = delete;
    Guard& operator=(Guard&&) = delete;
    ~Guard() { restore(); }
    /// @brief Restores now.
    void restore() {
      if (average_) std::exchange(average_, nullptr)->swap_out();
    }

   private:
    friend class WeightAverage;
    explicit Guard(WeightAverage* average) : average_(average) {}
    WeightAverage* average_;
  };

  /// @brief An average of tables and dense parameters.
  /// @param tables a RowTable, several, or modules that own them; `{}` for none
  /// @param parameters dense parameters, as from dense_parameters()
  /// @param options settings
  /// @throws c10::ValueError on a wrong setting
  explicit WeightAverage(RowTables tables, std::vector<at::Tensor> parameters = {}, WeightAverageOptions options = {})
      : tables_(std::move(tables)), parameters_(std::move(parameters)), options_(options), names_(detail::state_names(tables_)) {
    HTL_CHECK(options.decay >= 0 && options.decay < 1, kWho, ": expected decay in [0, 1), got ", options.decay);
    HTL_CHECK(options.start >= 0, kWho, ": expected start >= 0, got ", options.start);
    HTL_CHECK(options.every >= 1, kWho, ": expected every >= 1, got ", options.every);
    HTL_CHECK(!tables_.empty() || !parameters_.empty(), kWho, ": expected tables or parameters, got neither");
    for (int64_t steps = 0; options.decay > 0 && steps < kAdvances; ++steps) advances_.push_back(advance_of(static_cast<double>(steps)));
    at::Device device = at::kCPU;
    for (const at::Tensor& parameter : parameters_) {
      HTL_CHECK(parameter.defined() && parameter.is_floating_point(), kWho, ": expected floating-point parameters");
      averages_.push_back(at::zeros(parameter.sizes(), at::TensorOptions().dtype(detail::state_type(parameter)).device(parameter.device())));
      device = parameter.device();
    }
    for (const RowTable& table : tables_) {
      detail::check_table(kWho, table);
      device = table.weight().device();
      rows_.push_back({detail::zeros_on_touch({table.rows(), table.dim()}, detail::state_type(table.weight()), device),
                       detail::zeros_on_touch({table.rows()}, at::kInt, device)});
    }
    step_ = at::zeros({}, at::TensorOptions().dtype(at::kLong).device(device));
    sampled_ = at::zeros({}, at::TensorOptions().dtype(at::kLong).device(device));
  }
  WeightAverage(const WeightAverage&) = delete;
  WeightAverage& operator=(const WeightAverage&) = delete;

  /// @brief Takes the weights as they are after `step` finished steps into the average, for what the coming step will change; counts the step.
  /// @throws c10::Error while the averages are applied, or when there are tables but no row gradient (the optimizer has already cleared it)
  void update() {
    HTL_CHECK_STATE(!applied_, kWho, ": update() while the averages are in the model; end the guard of apply() first");
    bool any = tables_.empty();
    for (const RowTable& table : tables_) any = any || table.gradient().defined();
    HTL_CHECK_STATE(any, kWho, ": no table has a row gradient; call update() after htl::backward and before the optimizers' step(), which clears it");
    const c10::NoGradGuard no_grad;
    follow_device();
    const at::Tensor samples = samples_now();
    for (size_t i = 0; i < tables_.size(); ++i) {
      if (tables_[i].gradient().defined()) settle_touched(i, samples);
    }
    settle_dense(samples);
    step_.add_(1);
  }

  /// @brief Puts the averages into the model until the guard ends. Don't train meanwhile.
  ///
  /// Passes over the tables. On the CPU rows are exchanged in place; elsewhere, for dense parameters and for reduced element types, a copy of the
  /// weights is held meanwhile. Reduced types round the average.
  /// @throws c10::Error when it is applied already
  Guard apply() {
    HTL_CHECK_STATE(!applied_, kWho, ": apply() while the averages are already in the model");
    const c10::NoGradGuard no_grad;
    follow_device();
    const at::Tensor samples = samples_now();
    settle_dense(samples);
    for (size_t i = 0; i < tables_.size(); ++i) swap_in(i, samples);
    // Before the first sample the average is the weights themselves.
    const at::Tensor sampled = samples.gt(0);
    for (size_t i = 0; i < parameters_.size(); ++i) {
      kept_.push_back(parameters_[i].clone());
      parameters_[i].copy_(at::where(sampled.to(parameters_[i].device()), averages_[i], parameters_[i].to(averages_[i].scalar_type())));
    }
    applied_ = true;
    return Guard(this);
  }

  /// @brief Whether the averages are in the model now.
  bool applied() const { return applied_; }
  /// @brief The settings.
  const WeightAverageOptions& options() const { return options_; }
  /// @brief Calls `visit("step", tensor)`, `visit("TABLE.average", …)`, `visit("TABLE.row_sample", …)`, `visit("I.average", …)`; not while applied.
  template <class Visit>
  void fields(Visit&& visit) {
    HTL_CHECK_STATE(!applied_, kWho, ": its state can't be saved or loaded while the averages are in the model; end the guard of apply() first");
    visit("step", step_);
    visit("sampled", sampled_);
    for (size_t i = 0; i < rows_.size(); ++i) {
      visit((names_[i] + ".average").c_str(), rows_[i].average);
      visit((names_[i] + ".row_sample").c_str(), rows_[i].sample);
    }
    for (size_t i = 0; i < averages_.size(); ++i) visit((std::to_string(i) + ".average").c_str(), averages_[i]);
  }

 private:
  static constexpr const char* kWho = "htl::WeightAverage";
  static constexpr int64_t kAdvances = 1024;
  struct Rows {
    at::Tensor average;  // [R, d] as of sample `sample`
    at::Tensor sample;   // [R] int32; 0 = the row has had one value in all samples, its weight
    at::Tensor kept = {};
  };

  // How many samples have been taken when `step` steps are finished, the one of now included; int64 scalar.
  at::Tensor samples_now() const { return step_.sub(options_.start).add_(options_.every).clamp_min_(0).div_(options_.every, "floor"); }
  // How far an average of sample `from` goes towards the weight to be that of sample `to`: p.
  double advance(int64_t from, int64_t to) const {
    if (from >= to) return 0;
    if (from == 0) return 1;
    if (options_.decay == 0) return static_cast<double>(to - from) / static_cast<double>(to);
    const int64_t steps = to - from;
    return steps < kAdvances ? advances_[static_cast<size_t>(steps)] : advance_of(static_cast<double>(steps));
  }
  double advance_of(double steps) const { return -std::expm1(steps * std::log(options_.decay)); }
  // The same for tensors; float64.
  at::Tensor advance(const at::Tensor& from, const at::Tensor& to) const {
    const at::Tensor steps = to.sub(from).to(at::kDouble);
    const at::Tensor part = options_.decay > 0 ? steps.mul(std::log(options_.decay)).expm1_().neg_() : steps.div(to.clamp_min(1));
    return at::where(from.ge(to), 0., at::where(from.eq(0), 1., part));
  }
  void follow_device() {
    const at::Device device = tables_.empty() ? parameters_[0].device() : tables_[0].weight().device();
    for (at::Tensor* counter : {&step_, &sampled_}) {
      HTL_CHECK_STATE(counter->scalar_type() == at::kLong && counter->dim() == 0, kWho,
                      ": expected int64 scalars step and sampled, got a loaded state with others");
      if (counter->device() != device) *counter = counter->to(device);
    }
    for (size_t i = 0; i < tables_.size(); ++i) {
      detail::check_state(kWho, tables_[i], "average", rows_[i].average, tables_[i].weight().sizes());
      detail::check_state(kWho, tables_[i], "row_sample", rows_[i].sample, {tables_[i].rows()});
    }
    for (size_t i = 0; i < parameters_.size(); ++i) {
      HTL_CHECK_STATE(averages_[i].sizes() == parameters_[i].sizes(), kWho, ": parameter ", i, " has shape ", shape_of(parameters_[i]), ", its average ",
                      shape_of(averages_[i]), "; a parameter's shape must not change after the average is made, nor the state's on loading");
      if (averages_[i].device() != parameters_[i].device()) averages_[i] = averages_[i].to(parameters_[i].device());
    }
  }

  void settle_dense(const at::Tensor& samples) {
    if (samples.is_cpu() && samples.const_data_ptr<int64_t>()[0] == sampled_.const_data_ptr<int64_t>()[0]) return;
    const bool done = samples.is_cpu() && detail::move_towards_by_loop(averages_, parameters_,
                                                                       advance(sampled_.const_data_ptr<int64_t>()[0], samples.const_data_ptr<int64_t>()[0]));
    if (!done) detail::move_towards(averages_, parameters_, advance(sampled_, samples));
    sampled_.copy_(samples);
  }

  void settle_touched(size_t i, const at::Tensor& samples) {
    const RowTable& table = tables_[i];
    Rows& rows = rows_[i];
    const detail::RowStep step = detail::checked_step(kWho, table, rows.average.scalar_type());
    if (!step.mask.defined()) {
      const int64_t now = samples.const_data_ptr<int64_t>()[0];
      if (now == 0) return;
      detail::for_types(table.weight().scalar_type(), rows.average.scalar_type(), [&]<class W, class S>() {
        each_row<W, S>(table, rows, step.rows.size(0), step.rows.const_data_ptr<int64_t>(), [&](const W* w, S* average, int32_t& sample) {
          using P = detail::Wider<W, S>;
          const P part = static_cast<P>(advance(sample, now));
          for (int64_t j = 0; j < table.dim(); ++j)
            average[j] = static_cast<S>(static_cast<P>(average[j]) + part * (static_cast<P>(w[j]) - static_cast<P>(average[j])));
          sample = static_cast<int32_t>(now);
        });
      });
      return;
    }
    const at::Tensor weight = table.weight().index_select(0, step.rows).to(rows.average.scalar_type());
    const at::Tensor average = rows.average.index_select(0, step.rows), sample = rows.sample.index_select(0, step.rows);
    const at::Tensor change = weight.sub(average).mul_(advance(sample, samples).to(average.scalar_type()).unsqueeze(1));
    rows.average.index_add_(0, step.rows, at::where(step.mask, change, at::zeros({}, change.options())));
    rows.sample.index_add_(0, step.rows, samples.to(at::kInt).sub(sample).mul_(step.mask.squeeze(1)));
  }

  // Calls `f(weight row, average row, sample)` for some rows, or for all without a list.
  template <class W, class S, class F>
  static void each_row(const RowTable& table, Rows& state, int64_t count, const int64_t* rows, const F& f) {
    const int64_t d = table.dim(), stride = table.weight().stride(0);
    W* const weight = table.weight().mutable_data_ptr<W>();
    S* const average = state.average.mutable_data_ptr<S>();
    int32_t* const sample = state.sample.mutable_data_ptr<int32_t>();
    at::parallel_for(0, count, detail::kRowGrain, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        if (rows && i + detail::kRowsAhead < end) {
          const int64_t ahead = rows[i + detail::kRowsAhead];
          detail::prefetch(weight + ahead * stride, d);
          detail::prefetch(average + ahead * d, d);
          detail::prefetch(sample + ahead, 1);
        }
        const int64_t row = rows ? rows[i] : i;
        f(weight + row * stride, average + row * d, sample[row]);
      }
    });
  }
  static bool exchanges_rows(const RowTable& table, const Rows& rows) {
    return table.weight().is_cpu() && table.weight().scalar_type() == rows.average.scalar_type() && (table.weight().stride(1) == 1 || table.dim() <= 1);
  }

  void swap_in(size_t i, const at::Tensor& samples) {
    const RowTable& table = tables_[i];
    Rows& rows = rows_[i];
    if (exchanges_rows(table, rows)) {
      const int64_t now = samples.const_data_ptr<int64_t>()[0];
      detail::for_types(table.weight().scalar_type(), rows.average.scalar_type(), [&]<class W, class S>() {
        each_row<W, S>(table, rows, table.rows(), nullptr, [&](W* w, S* average, int32_t& sample) {
          if (sample == 0) return;
          const S part = static_cast<S>(advance(sample, now));
          for (int64_t j = 0; j < table.dim(); ++j) {
            const W settled = detail::rounded<W>(average[j] + part * (static_cast<S>(w[j]) - average[j]));
            average[j] = static_cast<S>(w[j]);
            w[j] = settled;
          }
          sample = static_cast<int32_t>(now);
        });
      });
      detail::mark_changed(table.weight());
      return;
    }
    const at::Tensor weight = table.weight().to(rows.average.scalar_type());
    const at::Tensor part = advance(rows.sample, samples).to(rows.average.scalar_type()).unsqueeze(1);
    rows.kept = table.weight().clone();
    table.weight().copy_(at::where(rows.sample.gt(0).unsqueeze(1), weight.sub(rows.average).mul_(part).add_(rows.average), weight));
  }

  void swap_out() {
    const c10::NoGradGuard no_grad;
    for (size_t i = 0; i < tables_.size(); ++i) {
      const RowTable& table = tables_[i];
      Rows& rows = rows_[i];
      if (rows.kept.defined()) {
        table.weight().copy_(rows.kept);
        rows.kept.reset();
        continue;
      }
      detail::for_types(table.weight().scalar_type(), rows.average.scalar_type(), [&]<class W, class S>() {
        each_row<W, S>(table, rows, table.rows(), nullptr, [&](W* w, S* average, int32_t& sample) {
          if (sample == 0) return;
          for (int64_t j = 0; j < table.dim(); ++j) {
            const W settled = w[j];
            w[j] = detail::rounded<W>(average[j]);
            average[j] = static_cast<S>(settled);
          }
        });
      });
      detail::mark_changed(table.weight());
    }
    for (size_t i = 0; i < parameters_.size(); ++i) parameters_[i].copy_(kept_[i]);
    kept_.clear();
    applied_ = false;
  }

  RowTables tables_;
  std::vector<at::Tensor> parameters_;
  WeightAverageOptions options_;
  std::vector<std::string> names_;
  std::vector<double> advances_;
  std::vector<Rows> rows_;
  std::vector<at::Tensor> averages_;
  at::Tensor step_, sampled_;
  std::vector<at::Tensor> kept_;
  bool applied_ = false;
};

}  // namespace htl
