// SPDX-License-Identifier: Apache-2.0
/// @file task_loss.hpp
/// @brief TaskLoss: what a loss must offer; AnyLoss: any of them as a value, since a task's losses may come from a file.
#pragma once

#include <htl/task/label.hpp>
#include <htl/task/option.hpp>
#include <htl/task/task_kind.hpp>
#include <htl/task/task_outputs.hpp>

#include <concepts>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace htl::inline v0_1_0 {

/// @brief What a loss sees of one task in one batch.
struct LossInput {
  /// [B, W] the tower's output; W is the loss's output_width().
  at::Tensor output;
  /// [B] the transformed label in the output's type (multiclass: int64 class index). 0 in rows without a label.
  at::Tensor target;
  /// [B] the label in its own unit; 0 in rows without a label. Equal to target for discrete tasks.
  at::Tensor label;
  /// [B] mask × weight in the output's type, scaled so that the largest is 1; undefined = 1 everywhere. The caller applies it; pairwise losses
  /// read it to form pairs.
  at::Tensor weight;
  /// The batch's named columns [B].
  const Named<at::Tensor>& context;
  /// [B, W_t] the outputs of all tasks; nullptr where a loss is used alone.
  const TaskOutputs* outputs = nullptr;
  /// The labels of all tasks; nullptr where a loss is used alone. HybridLoss gives those of the tasks that the loss reads a mask of the rows that carry them:
  /// mask, observed_when and weight together; others are as the batch gave them.
  const Labels* labels = nullptr;
};

/// @brief What a prediction may be read from.
struct PredictInput {
  /// [B, W] the tower's output.
  at::Tensor output;
  /// The batch's named columns [B].
  const Named<at::Tensor>& context;
  /// The outputs of all tasks; nullptr where a loss is used alone.
  const TaskOutputs* outputs = nullptr;
};

/// @brief A loss: one value per row, unreduced, and the prediction that its output means.
///
/// - `name()`: a short word, as in configuration files;
/// - `output_width()`: the W that the tower must give;
/// - `per_row(input)`: [B] in the output's type, differentiable in `input.output`, finite for every finite output, also in rows without a label;
/// - `predict(output, context)`: [B] (multiclass [B, K] probabilities): the prediction in the space of the target, detached from nothing.
///
/// Optional:
/// - `static constexpr bool in_label_unit = true`: the loss reads `label`, not `target`, and predicts in the label's unit (ZILN, WeightedLogistic, CREAD);
///   no label transform may stand on its task;
/// - `over_all_rows()`: whether it is of all rows, those without the events that it reads included; no `observed_when` of one may stand on its task then;
/// - `fits(kind)`: whether a task of that TaskKind can have it; without it, any;
/// - `context()`: names of the context columns that it reads (duration, propensity, group);
/// - `reads()`: names of other tasks whose outputs or labels it reads, by `input.outputs` and `input.labels` (ESMM's product);
/// - `can_read(kind)`: whether these tasks may be of that TaskKind; without it, of any;
/// - `predict(input)` of a PredictInput instead of `predict(output, context)`, where the prediction needs other tasks' outputs;
/// - `fitted(label, context)`: a copy with statistics of the training labels (D2Q's quantiles by duration); TaskSet::fitted() calls it with the
///   observed rows only, context columns included. They belong into `parameters()`; `is_fitted()` says whether they are there;
/// - `label_range()`: a pair of doubles, the closed interval of labels (targets, if not in the label's unit) for which the loss is defined;
///   HybridLoss checks it on the CPU. Without it: any finite number;
/// - `reduced(input, share)`: the scalar Σ share·per_row in one pass, or in a pairwise loss its own mean over pairs. `share` [B] is weight / Σ weight;
///   rows of share 0 (no label, no weight) must not enter; all 0 must give 0 with a graph;
/// - `parameters()`: its Options, so that a file can hold them and loss_by_name() can make the loss again.
/// Adding a loss is adding one file with such a struct.
template <class L>
concept TaskLoss = std::copy_constructible<L> && requires(const L& loss, const LossInput& input) {
  { loss.name() } -> std::convertible_to<std::string>;
  { loss.output_width() } -> std::convertible_to<int64_t>;
  { loss.per_row(input) } -> std::same_as<at::Tensor>;
} &&(
    requires(const L& loss, const at::Tensor& output, const Named<at::Tensor>& context) {
      { loss.predict(output, context) } -> std::same_as<at::Tensor>;
    } ||
    requires(const L& loss, const PredictInput& input) {
      { loss.predict(input) } -> std::same_as<at::Tensor>;
    });

/// @brief Σ share·l over the rows with share > 0, as a scalar; what the others hold, NaN included, enters neither value nor cotangent.
inline at::Tensor weighted_sum(const at::Tensor& per_row, const at::Tensor& share) { return per_row.masked_fill(share.eq(0), 0).mul(share).sum(); }

/// @brief Any TaskLoss as a copyable value. One virtual call a batch.
class AnyLoss {
 public:
  /// @brief Wraps a loss.
  template <class L>
    requires(!std::same_as<L, AnyLoss>)
  &&TaskLoss<L>                                                           // in this order: asking TaskLoss<AnyLoss> here would ask itself
  AnyLoss(L loss) : held_(std::make_shared<Held<L>>(std::move(loss))) {}  // NOLINT(google-explicit-constructor): a loss is an AnyLoss

  /// @brief The loss's short word.
  std::string name() const { return held_->name(); }
  /// @brief The W that the tower must give.
  int64_t output_width() const { return held_->output_width(); }
  /// @brief [B] one value per row.
  at::Tensor per_row(const LossInput& input) const { return held_->per_row(input); }
  /// @brief The scalar Σ share·l over the rows with share > 0: by the loss's own `reduced`, else from `per_row`. No synchronisation.
  at::Tensor reduced(const LossInput& input, const at::Tensor& share) const { return held_->reduced(input, share); }
  /// @brief The closed interval of labels for which the loss is defined.
  std::pair<double, double> label_range() const { return held_->label_range(); }
  /// @brief The prediction that an output [B, W] means.
  at::Tensor predict(const PredictInput& input) const { return held_->predict(input); }
  /// @brief The same for a loss that reads no other task.
  at::Tensor predict(const at::Tensor& output, const Named<at::Tensor>& context) const { return held_->predict({output, context}); }
  /// @brief Whether the loss works in the label's own unit.
  bool in_label_unit() const { return held_->in_label_unit(); }
  /// @brief Whether the loss is of all rows, so that no `observed_when` of a task that it reads may stand on its own.
  bool over_all_rows() const { return held_->over_all_rows(); }
  /// @brief The loss's options and statistics by name; empty where it has none.
  Options parameters() const { return held_->parameters(); }
  /// @brief Names of the context columns that it reads.
  std::vector<std::string> context() const { return held_->context(); }
  /// @brief Names of the other tasks that it reads.
  std::vector<std::string> reads() const { return held_->reads(); }
  /// @brief Whether the tasks that it reads may be of that kind.
  bool can_read(TaskKind kind) const { return held_->can_read(kind); }
  /// @brief Whether it needs no statistics, or has them.
  bool is_fitted() const { return held_->is_fitted(); }
  /// @brief Whether a task of that kind can have it.
  bool fits(TaskKind kind) const { return held_->fits(kind); }
  /// @brief The loss itself if it is an L, else nullptr.
  template <class L>
  const L* get_if() const {
    const auto* const held = dynamic_cast<const Held<L>*>(held_.get());
    return held ? &held->loss : nullptr;
  }
  /// @brief The loss with statistics of the observed training rows; itself where it has none.
  AnyLoss fitted(const Label& label, const Named<at::Tensor>& context) const {
    std::shared_ptr<const Base> fit = held_->fitted(label, context);
    return fit ? AnyLoss(std::move(fit)) : *this;
  }

 private:
  struct Base;
  explicit AnyLoss(std::shared_ptr<const Base> held) : held_(std::move(held)) {}
  struct Base {
    virtual ~Base() = default;
    virtual std::string name() const = 0;
    virtual int64_t output_width() const = 0;
    virtual at::Tensor per_row(const LossInput& input) const = 0;
    virtual at::Tensor reduced(const LossInput& input, const at::Tensor& share) const = 0;
    virtual std::pair<double, double> label_range() const = 0;
    virtual at::Tensor predict(const PredictInput& input) const = 0;
    virtual bool in_label_unit() const = 0;
    virtual bool over_all_rows() const = 0;
    virtual Options parameters() const = 0;
    virtual std::vector<std::string> context() const = 0;
    virtual std::vector<std::string> reads() const = 0;
    virtual bool can_read(TaskKind kind) const = 0;
    virtual bool is_fitted() const = 0;
    virtual bool fits(TaskKind kind) const = 0;
    virtual std::shared_ptr<const Base> fitted(const Label& label, const Named<at::Tensor>& context) const = 0;
  };
  template <class L>
  struct Held final : Base {
    explicit Held(L value) : loss(std::move(value)) {}
    std::string name() const override { return loss.name(); }
    int64_t output_width() const override { return loss.output_width(); }
    at::Tensor per_row(const LossInput& input) const override { return loss.per_row(input); }
    at::Tensor reduced(const LossInput& input, const at::Tensor& share) const override {
      constexpr bool own = requires(const L& l, const LossInput& i, const at::Tensor& s) {
        { l.reduced(i, s) } -> std::same_as<at::Tensor>;
      };
      static_assert(
          own || !requires { &L::reduced; }, "a loss's reduced must be: at::Tensor reduced(const LossInput&, const at::Tensor& share) const");
      if constexpr (own) {
        return loss.reduced(input, share);
      } else {
        const at::Tensor rows = loss.per_row(input);
        check_shape("htl::AnyLoss", "per_row() of loss \"" + name() + "\"", rows, {share.size(0)});
        return weighted_sum(rows, share);
      }
    }
    std::pair<double, double> label_range() const override {
      constexpr bool own = requires(const L& l) {
        { l.label_range() } -> std::convertible_to<std::pair<double, double>>;
      };
      static_assert(
          own || !requires { &L::label_range; }, "a loss's label_range must be: std::pair<double, double> label_range() const");
      if constexpr (own) return loss.label_range();
      return {-std::numeric_limits<double>::infinity(), std::numeric_limits<double>::infinity()};
    }
    at::Tensor predict(const PredictInput& input) const override {
      if constexpr (requires { loss.predict(input); }) {
        return loss.predict(input);
      } else {
        return loss.predict(input.output, input.context);
      }
    }
    bool in_label_unit() const override {
      if constexpr (requires { L::in_label_unit; }) return L::in_label_unit;
      return false;
    }
    bool over_all_rows() const override {
      if constexpr (requires { loss.over_all_rows(); }) return loss.over_all_rows();
      return false;
    }
    Options parameters() const override {
      if constexpr (requires { loss.parameters(); }) return loss.parameters();
      return {};
    }
    std::vector<std::string> context() const override {
      if constexpr (requires { loss.context(); }) return loss.context();
      return {};
    }
    std::vector<std::string> reads() const override {
      if constexpr (requires { loss.reads(); }) return loss.reads();
      return {};
    }
    bool can_read(TaskKind kind) const override {
      constexpr bool own = requires(const L& l) {
        { l.can_read(kind) } -> std::same_as<bool>;
      };
      static_assert(
          own || !requires { &L::can_read; }, "a loss's can_read must be: bool can_read(TaskKind) const");
      if constexpr (own) return loss.can_read(kind);
      return true;
    }
    bool is_fitted() const override {
      if constexpr (requires { loss.is_fitted(); }) return loss.is_fitted();
      return true;
    }
    bool fits(TaskKind kind) const override {
      constexpr bool own = requires(const L& l) {
        { l.fits(kind) } -> std::same_as<bool>;
      };
      static_assert(
          own || !requires { &L::fits; }, "a loss's fits must be: bool fits(TaskKind) const");
      if constexpr (own) return loss.fits(kind);
      return true;
    }
    std::shared_ptr<const Base> fitted(const Label& label, const Named<at::Tensor>& context) const override {
      constexpr bool own = requires(const L& l) {
        { l.fitted(label, context) } -> std::same_as<L>;
      };
      static_assert(
          own || !requires { &L::fitted; }, "a loss's fitted must be: L fitted(const Label&, const Named<at::Tensor>&) const, of its own type L");
      if constexpr (own) return std::make_shared<Held>(loss.fitted(label, context));
      return nullptr;
    }
    L loss;
  };
  std::shared_ptr<const Base> held_;
};

}  // namespace htl
