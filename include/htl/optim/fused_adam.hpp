// SPDX-License-Identifier: Apache-2.0
/// @file fused_adam.hpp
/// @brief FusedAdam: exact dense Adam and AdamW for many parameters at once.
#pragma once

#include <htl/optim/fused_operators.hpp>
#include <htl/optim/row_update.hpp>

#include <string>
#include <utility>
#include <vector>

namespace htl::inline v0_1_0 {

/// @brief Settings of FusedAdam.
struct FusedAdamOptions {
  /// Learning rate.
  double lr = 1e-3;
  /// Decay of the first moment, in [0, 1).
  double beta1 = 0.9;
  /// Decay of the second moment, in [0, 1).
  double beta2 = 0.999;
  /// Added to the root of the second moment; > 0.
  double eps = 1e-8;
  /// Weight decay.
  double weight_decay = 0;
  /// true: AdamW, `w −= lr·weight_decay·w` apart from the moments; false: Adam with L2, `g += weight_decay·w`.
  bool decoupled_weight_decay = true;
};

/// @brief Adam (Kingma and Ba, ICLR 2015) or AdamW (Loshchilov and Hutter, ICLR 2019), equal to `torch::optim::Adam` and `AdamW` up to rounding.
///
/// A parameter without gradient is skipped: weight, moments and its t stay. Gradients stay until zero_grad(), as with LibTorch's optimizers.
/// *State*: for the i-th parameter step (a float32 scalar, exact up to 2²⁴), exp_avg and exp_avg_sq of its shape, in float32 (float64 for float64). It keeps
/// its type when the model is cast. A bfloat16 or float16 parameter is updated in float32 and rounded once: updates below its resolution are
/// lost, so keep the weights in float32 and use autocast where that matters.
/// *Overflow*: in float32 the square of an element beyond 1e19 makes its second moment infinite, and the element stands still (but for decay) ever after,
/// without a word; so it is with LibTorch's Adam. htl::clip_grad_norm() before step() keeps such gradients away.
/// *Device*: LibTorch's fused kernel. On the CPU pieces of a fixed size run on the pool, with the same bits for any number of threads. Elsewhere
/// there is no synchronisation, with learning rate and t in device memory: a CUDA graph can capture a step after one ordinary step, if
/// gradients keep their memory (`zero_grad(false)`).
class FusedAdam {
 public:
  /// @brief An optimizer for dense parameters.
  /// @param parameters leaves of any shapes: `htl::FusedAdam dense(htl::dense_parameters(*net), {.lr = 1e-3})`
  /// @param options settings
  /// @throws c10::ValueError on a wrong setting, a parameter given twice or undefined; c10::TypeError unless they are floating point
  explicit FusedAdam(std::vector<at::Tensor> parameters, FusedAdamOptions options = {}) : parameters_(std::move(parameters)), options_(options) {
    detail::check_rate_eps_decay(kWho, options.lr, options.eps, options.weight_decay);
    detail::check_betas(kWho, options.beta1, options.beta2);
    for (size_t i = 0; i < parameters_.size(); ++i) {
      const at::Tensor& parameter = parameters_[i];
      HTL_CHECK(parameter.defined(), kWho, ": parameter ", i, " is undefined");
      HTL_CHECK_TYPE(parameter.is_floating_point(), kWho, ": expected floating-point parameters, got ", parameter.scalar_type(), " for parameter ", i);
      for (size_t j = 0; j < i; ++j) HTL_CHECK(!parameter.is_same(parameters_[j]), kWho, ": parameters ", j, " and ", i, " are the same tensor; give it once");
      const auto moments = at::TensorOptions().dtype(detail::state_type(parameter)).device(parameter.device());
      states_.push_back({at::zeros({}, moments.dtype(at::kFloat)), at::zeros(parameter.sizes(), moments), at::zeros(parameter.sizes(), moments)});
      if (!parameter.is_cpu()) rate_on(parameter.device());
    }
  }

  /// @brief Updates every parameter that has a gradient. No synchronisation.
  /// @param active a bool scalar on the parameters' device: false = change nothing, not even t (a loss was not finite); undefined = update
  /// @throws c10::ValueError when a gradient is sparse, or active is no bool scalar there; c10::Error when a shape has changed since construction
  void step(const at::Tensor& active = {}) {
    const c10::NoGradGuard no_grad;
    if (detail::is_halted(kWho, active)) return;
    std::vector<Group> groups;
    std::vector<std::pair<at::Tensor, at::Tensor>> rounded;
    for (size_t i = 0; i < parameters_.size(); ++i) {
      at::Tensor& parameter = parameters_[i];
      const at::Tensor gradient = parameter.grad();
      if (!gradient.defined() || parameter.numel() == 0) continue;
      State& state = states_[i];
      check(i, gradient);
      const at::ScalarType type = state.exp_avg.scalar_type();
      at::Tensor work = parameter;
      if (parameter.scalar_type() != type || !parameter.is_contiguous()) {
        work = parameter.to(type).contiguous();
        if (work.is_same(parameter)) work = parameter.clone(at::MemoryFormat::Contiguous);
        rounded.emplace_back(parameter, work);
      }
      Group& group = group_for(groups, work);
      group.parameters.push_back(work);
      group.gradients.push_back(gradient.to(type).contiguous());
      group.exp_avgs.push_back(state.exp_avg);
      group.exp_avg_sqs.push_back(state.exp_avg_sq);
      group.steps.push_back(state.step);
    }
    for (Group& group : groups) run(group, active);
    for (auto& [parameter, work] : rounded) parameter.copy_(work);
  }
  /// @brief Forgets the gradients, or fills them with zeros in place.
  /// @param set_to_none false keeps the gradients' memory, which captured graphs need
  void zero_grad(bool set_to_none = true) {
    for (at::Tensor& parameter : parameters_) {
      at::Tensor& gradient = parameter.mutable_grad();
      if (!gradient.defined()) continue;
      if (set_to_none) {
        gradient.reset();
      } else {
        gradient.detach_().zero_();
      }
    }
  }
  /// @brief Sets the learning rate.
  void set_lr(double lr) {
    detail::check_rate_eps_decay(kWho, lr, options_.eps, options_.weight_decay);
    options_.lr = lr;
    for (at::Tensor& rate : rates_) rate.fill_(lr);
  }
  /// @brief The learning rate.
  double lr() const { return options_.lr; }
  /// @brief The settings.
  const FusedAdamOptions& options() const { return options_; }
  /// @brief The parameters.
  const std::vector<at::Tensor>& parameters() const { return parameters_; }
  /// @brief Calls `visit("I.step", tensor)`, "I.exp_avg", "I.exp_avg_sq" for the I-th parameter; from that alone the state is saved and loaded.
  template <class Visit>
  void fields(Visit&& visit) {
    for (size_t i = 0; i < states_.size(); ++i) {
      const std::string name = std::to_string(i);
      visit((name + ".step").c_str(), states_[i].step);
      visit((name + ".exp_avg").c_str(), states_[i].exp_avg);
      visit((name + ".exp_avg_sq").c_str(), states_[i].exp_avg_sq);
    }
  }

 private:
  static constexpr const char* kWho = "htl::FusedAdam";
  /// Elements of the pieces that run in parallel on the CPU: small enough to balance, large enough to hide a call.
  static constexpr int64_t kPiece = 32768;
  struct State {
    at::Tensor step, exp_avg, exp_avg_sq;
  };
  using Group = detail::AdamLists;

  void check(size_t i, const at::Tensor& gradient) {
    const at::Tensor& parameter = parameters_[i];
    State& state = states_[i];
    HTL_CHECK(gradient.layout() == at::kStrided, kWho, ": parameter ", i, " of shape ", shape_of(parameter),
              " has a sparse gradient; leave row tables to a row optimizer and give dense_parameters() here");
    HTL_CHECK_STATE(state.exp_avg.sizes() == parameter.sizes() && state.exp_avg_sq.sizes() == parameter.sizes() && state.step.dim() == 0, kWho, ": parameter ",
                    i, " has shape ", shape_of(parameter), ", its state exp_avg ", shape_of(state.exp_avg), ", exp_avg_sq ", shape_of(state.exp_avg_sq),
                    ", step ", shape_of(state.step), "; a parameter's shape must not change after the optimizer is made, nor the state's on loading");
    HTL_CHECK_TYPE(state.exp_avg.scalar_type() == state.exp_avg_sq.scalar_type() && state.step.scalar_type() == at::kFloat, kWho,
                   ": the loaded state of parameter ", i, " has wrong element types; expected a float32 step and one type for the moments");
    for (at::Tensor* tensor : {&state.step, &state.exp_avg, &state.exp_avg_sq}) {
      if (tensor->device() != parameter.device()) *tensor = tensor->to(parameter.device());
      if (!tensor->is_contiguous()) *tensor = tensor->contiguous();
    }
  }
  static Group& group_for(std::vector<Group>& groups, const at::Tensor& work) {
    for (Group& group : groups) {
      if (group.parameters[0].device() == work.device() && group.parameters[0].scalar_type() == work.scalar_type()) return group;
    }
    return groups.emplace_back();
  }
  const at::Tensor& rate_on(const at::Device& device) {
    for (const at::Tensor& rate : rates_) {
      if (rate.device() == device) return rate;
    }
    return rates_.emplace_back(at::full({}, options_.lr, at::TensorOptions().dtype(at::kFloat).device(device)));
  }

  void run(Group& group, const at::Tensor& active) {
    const detail::AdamNumbers numbers{options_.lr, options_.beta1, options_.beta2, options_.eps, options_.weight_decay, options_.decoupled_weight_decay};
    const at::Device device = group.parameters[0].device();
    if (!device.is_cpu()) {
      if (active.defined()) {
        detail::check_active_device(kWho, active, device);
        detail::foreach_add_(group.steps, active.to(at::kFloat));
        detail::fused_adam(group, numbers, rate_on(device), active.logical_not().to(at::kFloat));
      } else {
        detail::foreach_add_(group.steps, 1);
        detail::fused_adam(group, numbers, rate_on(device));
      }
      return;
    }
    for (const at::Tensor& step : group.steps) *step.mutable_data_ptr<float>() += 1;
    // The kernel opens a parallel region for each tensor, which costs more than a bias or a small layer. So here the lists are
    // cut into pieces of about the same size, each done by one thread.
    std::vector<Group> pieces(1);
    int64_t filled = 0;
    for (size_t i = 0; i < group.parameters.size(); ++i) {
      const int64_t size = group.parameters[i].numel();
      for (int64_t begin = 0; begin < size;) {
        if (filled >= kPiece) {
          pieces.emplace_back();
          filled = 0;
        }
        const int64_t end = std::min(size, begin + kPiece - filled);
        pieces.back().append(group, i, begin, end);
        filled += end - begin;
        begin = end;
      }
    }
    at::parallel_for(0, static_cast<int64_t>(pieces.size()), 1, [&](int64_t begin, int64_t end) {
      const c10::NoGradGuard no_grad;  // the mode belongs to a thread
      for (int64_t i = begin; i < end; ++i) detail::fused_adam(pieces[static_cast<size_t>(i)], numbers, {});
    });
  }

  std::vector<at::Tensor> parameters_;
  FusedAdamOptions options_;
  std::vector<State> states_;
  std::vector<at::Tensor> rates_;
};

}  // namespace htl
