// SPDX-License-Identifier: Apache-2.0
#include "trainer.hpp"

#include "batch_parts.hpp"
#include "data/padding.hpp"
#include "optimizers.hpp"

#include <htl/optim/clip.hpp>

#include <torch/types.h>

#include <ATen/autocast_mode.h>

#include <chrono>
#include <cmath>
#include <cstdio>

namespace htlnet {
namespace {

/// bfloat16 autocast for a scope, with everything put back at its end.
class Autocast {
 public:
  Autocast(bool enabled, const torch::Device& device) : type_(device.type()), enabled_(enabled) {
    if (!enabled_) return;
    was_enabled_ = at::autocast::is_autocast_enabled(type_);
    previous_ = at::autocast::get_autocast_dtype(type_);
    at::autocast::set_autocast_enabled(type_, true);
    at::autocast::set_autocast_dtype(type_, torch::kBFloat16);
    at::autocast::increment_nesting();
  }
  ~Autocast() {
    if (!enabled_) return;
    if (at::autocast::decrement_nesting() == 0) at::autocast::clear_cache();
    at::autocast::set_autocast_enabled(type_, was_enabled_);
    at::autocast::set_autocast_dtype(type_, previous_);
  }
  Autocast(const Autocast&) = delete;
  Autocast& operator=(const Autocast&) = delete;

 private:
  torch::DeviceType type_;
  bool enabled_, was_enabled_ = false;
  torch::ScalarType previous_ = torch::kFloat;
};

double seconds_since(std::chrono::steady_clock::time_point start) { return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count(); }

std::vector<double> numbers(const torch::Tensor& tensor) {
  const torch::Tensor values = tensor.detach().to(torch::kCPU, torch::kDouble).contiguous();
  return {values.const_data_ptr<double>(), values.const_data_ptr<double>() + values.numel()};
}

}  // namespace

Trainer::Trainer(HtlNet net, htl::TaskSet tasks, const Options& options, int64_t steps_per_epoch)
    : net_(std::move(net)),
      tasks_(std::move(tasks)),
      options_(options),
      device_(net_->embedding->weight.device()),
      id_dropout_(net_->embedding->options.sizes(), options.train.id_dropout, device_),
      loss_(tasks_),
      dense_parameters_(htl::dense_parameters(*net_)),
      tables_(net_->embedding),
      rows_(row_optimizer_of(tables_, options.train)),
      dense_(dense_parameters_,
             {.lr = options.train.dense_lr, .weight_decay = options.train.weight_decay, .decoupled_weight_decay = options.train.dense_optimizer == "adamw"}),
      average_(average_of(options.train, tables_, dense_parameters_, steps_per_epoch)),
      row_rate_(schedule_of(options.train, options.train.row_lr, options.train.epochs * steps_per_epoch)),
      dense_rate_(schedule_of(options.train, options.train.dense_lr, options.train.epochs * steps_per_epoch)),
      bad_step_(torch::zeros({tasks_.size()}, torch::TensorOptions(torch::kLong).device(device_))),
      count_(torch::zeros({}, bad_step_.options())) {}

void Trainer::set_rates() {
  std::visit([&](auto& rows) { htl::set_lr(rows, row_rate_(step_)); }, rows_);
  htl::set_lr(dense_, dense_rate_(step_));
}

// The plain sum is one gradient [B, F·d] without a fork. A watched step takes the fork for its report: the same sum in another order, so the logged steps of
// --adjuster sum round differently. A method that wants several independent batches gets the batch in as many parts.
Trainer::StepResult Trainer::step(const htl::Batch& batch, bool watch) {
  const bool adjusted = options_.model.adjuster != "sum";
  htl::GradientFork<htl::AnyWeighting>& adjuster = net_->adjuster;
  dense_.zero_grad();
  const auto losses_of = [&](const htl::Batch& rows) {
    const Autocast autocast(options_.train.precision == "bf16", device_);
    return loss_(net_->forward(rows, adjusted ? Gradients::adjusted : watch ? Gradients::watched : Gradients::summed), rows.labels);
  };
  std::vector<htl::TaskLosses> losses;
  std::vector<torch::Tensor> values;
  for (const htl::Batch& part : batch_parts(batch, adjusted ? adjuster->method().batches() : 1)) {
    losses.push_back(losses_of(part));
    std::vector<torch::Tensor> own;
    for (const auto& [name, loss] : losses.back().values) own.push_back(loss.detach());
    values.push_back(torch::stack(own));
  }
  StepResult result;
  result.losses = values.size() == 1 ? values.front() : torch::stack(values).mean(0);
  if (device_.is_cpu()) check_finite(watch_losses(result.losses.isfinite()));
  if (net_->balancer)
    for (htl::TaskLosses& of_part : losses) of_part = net_->balancer(of_part);
  if (adjusted) {
    result.report = losses.size() == 1 ? htl::backward(losses.front(), adjuster) : htl::backward(losses, adjuster);
  } else if (watch) {
    result.report = htl::backward(losses.front(), net_->plain_sum);
  } else {
    losses.front().sum().backward();
  }
  torch::Tensor active;  // on the CPU htl::backward and check_finite have refused what is not finite
  if (!device_.is_cpu()) {
    torch::Tensor finite = result.losses.isfinite();
    if (result.report) finite = finite.logical_and(result.report->gramian.diagonal().isfinite());
    active = watch_losses(finite);
  }
  if (options_.train.clip_norm > 0.0) result.gradient_norm = htl::clip_grad_norm(tables_, dense_parameters_, options_.train.clip_norm);
  if (average_) average_->update();
  std::visit([&](auto& rows) { rows.step(active); }, rows_);
  dense_.step(active);
  if (adjusted && adjuster->method().observes()) {
    const torch::NoGradGuard no_grad;
    adjuster->observe(losses_of(batch));
  }
  if (net_->balancer && net_->balancer->method().observes()) {
    const torch::NoGradGuard no_grad;
    net_->balancer->observe(losses_of(batch));
  }
  ++step_;
  return result;
}

torch::Tensor Trainer::watch_losses(const torch::Tensor& finite) {
  count_.add_(1);
  bad_step_.add_(finite.logical_not().logical_and_(bad_step_.eq(0)).mul(count_));
  return bad_step_.eq(0).all();
}

void Trainer::check_finite(const torch::Tensor& active) const {
  if (active.item<bool>()) return;
  const torch::Tensor steps = bad_step_.to(torch::kCPU);
  for (int64_t t = 0; t < tasks_.size(); ++t)
    HTL_CHECK_STATE(steps[t].item<int64_t>() == 0, "htlnet: the loss of task \"", tasks_[t].name(), "\" or its gradient was not finite in step ",
                    steps[t].item<int64_t>(), ", and no weight has changed since; try smaller --dense-lr and --row-lr, --clip-norm 1, or another --core-label",
                    kept_ ? ". The weights of the best epoch so far are kept" : "", ". A checkpoint before that step goes into another run by --warm-start");
}

// On CUDA the only place, with the end of an epoch, where a step's figures are read back.
void Trainer::read_losses(const StepResult& result, nlohmann::json& line) {
  check_finite(bad_step_.eq(0).all());
  const std::vector<double> losses = numbers(result.losses);
  for (int64_t t = 0; t < tasks_.size(); ++t) line["losses"][tasks_[t].name()] = losses[static_cast<size_t>(t)];
  if (net_->balancer) {
    const std::vector<double> weights = numbers(net_->balancer->weights());
    for (int64_t t = 0; t < tasks_.size(); ++t) line["loss_weights"][tasks_[t].name()] = weights[static_cast<size_t>(t)];
  }
  line["row_lr"] = row_rate_(step_ - 1);
  line["dense_lr"] = dense_rate_(step_ - 1);
  if (result.gradient_norm.defined()) line["gradient_norm"] = numbers(result.gradient_norm).front();
  if (!result.report) return;
  for (const auto& [name, value] : result.report->scalars()) {
    if (name.starts_with("losses/") || !std::isfinite(value)) continue;  // of several batches the mean is there already; JSON has no ∞
    const size_t slash = name.find('/');
    (slash == std::string::npos ? line[name] : line[name.substr(0, slash)][name.substr(slash + 1)]) = value;
  }
  line["passes"] = result.report->passes;
}

htl::BatchLoader training_loader(const htl::TableData& train, const TrainOptions& options, const torch::Device& device) {
  const bool on_cpu = device.is_cpu(), resident = !on_cpu && train.all().fields.is_short();
  return htl::BatchLoader(resident ? with_weights(train.to(device)) : train, {.batch_size = options.batch_size,
                                                                              .shuffle = true,
                                                                              .seed = options.seed,
                                                                              .pad_last = !on_cpu && !resident,
                                                                              .prefetch = !on_cpu && !resident,
                                                                              .pin_memory = !on_cpu && !resident});
}

// From pinned memory the host does not wait for the copy: it launches the step while a thread makes the next batch. On the device the copy comes, in the
// stream of the steps, after the step before: the two do not overlap.
htl::Batch Trainer::on_device(const htl::Batch& batch) const {
  if (device_.is_cpu()) return batch;
  if (batch.fields.ids.is_cpu()) return batch.to(device_, /*non_blocking=*/true);
  return padded(batch, options_.train.batch_size);
}

void Trainer::add_to(htl::TrainingState& state) {
  state.add("model", net_);
  std::visit([&](auto& rows) { state.add("rows", rows); }, rows_);
  state.add("dense", dense_);
  if (average_) state.add("average", *average_);
  state.add("rng", at::detail::getDefaultCPUGenerator());
  if (!device_.is_cpu()) state.add("device_rng", at::globalContext().defaultGenerator(device_));
  state.add("step", step_).add("count", count_).add("bad_step", bad_step_).add("kept", kept_);
  state.add("epochs", result_.epochs).add("best_epoch", result_.best_epoch).add("best_value", result_.best_value);
  state.add("time.epoch_seconds", epoch_seconds_).add("time.train_seconds", result_.train_seconds).add("time.samples_per_second", result_.samples_per_second);
}

htl::Named<torch::Tensor> Trainer::optimizer_state() {
  htl::Named<torch::Tensor> state = std::visit([&](auto& rows) { return htl::optimizer_state(*net_, rows); }, rows_);
  for (const auto& [name, tensor] : htl::optimizer_state(*net_, dense_)) state.set(name, tensor);
  return state;
}

void Trainer::carry_over(htl::WarmStart& start, const htl::Named<torch::Tensor>& weights, const htl::Named<torch::Tensor>& state) {
  start.load(*net_, weights);
  if (state.empty()) return;
  std::visit([&](auto& rows) { start.load_optimizer(*net_, rows, state); }, rows_);
  start.load_optimizer(*net_, dense_, state);
}

bool Trainer::is_over(const htl::TableData& valid) const {
  const bool impatient = options_.train.patience > 0 && valid.rows() > 0 && result_.epochs > 0;
  return result_.epochs >= options_.train.epochs || (impatient && result_.epochs - result_.best_epoch >= options_.train.patience);
}

bool Trainer::run(htl::BatchLoader& train, const htl::TableData& valid, const Groups& groups, const Selection& selection, const Hooks& hooks) {
  Progress progress(options_.train.quiet);
  net_->train();
  while (!is_over(valid)) {
    if (!train_epoch(train, progress, hooks)) return false;
    end_epoch(train, valid, groups, selection, progress, hooks);
  }
  return true;
}

bool Trainer::train_epoch(htl::BatchLoader& train, Progress& progress, const Hooks& hooks) {
  const TrainOptions& options = options_.train;
  const int64_t epoch = result_.epochs + 1;
  const auto start = std::chrono::steady_clock::now();
  const double before = epoch_seconds_;  // in the processes that this one goes on from
  int64_t rows = train.state().position, in_epoch = (rows + options.batch_size - 1) / options.batch_size;
  for (const htl::Batch& batch : train) {
    ++in_epoch;
    const bool logged = step_ == 0 || in_epoch == train.batches() || (step_ + 1) % options.log_every == 0;
    set_rates();
    const StepResult done = step(id_dropout_(on_device(batch)), logged);
    rows = std::min(rows + batch.rows(), train.usable_rows());  // padding is no row
    epoch_seconds_ = before + seconds_since(start);
    const double rate = static_cast<double>(rows) / epoch_seconds_;
    if (logged) {
      nlohmann::json line = {{"kind", "step"}, {"epoch", epoch}, {"step", step_}};
      read_losses(done, line);
      line["samples_per_second"] = rate;
      hooks.log(line);
    }
    // Between logged steps nothing is read back: on CUDA that is then the rate of the launches, a few steps ahead
    progress.bar(epoch, options.epochs, in_epoch, train.batches(), rate);
    const bool stops = hooks.is_asked_to_stop();
    if (!stops && (options.checkpoint_every == 0 || step_ % options.checkpoint_every != 0)) continue;
    check_finite(bad_step_.eq(0).all());  // what can't go on is no checkpoint
    hooks.checkpoint(step_);
    if (stops) return false;
  }
  return true;
}

void Trainer::end_epoch(const htl::BatchLoader& train, const htl::TableData& valid, const Groups& groups, const Selection& selection, Progress& progress,
                        const Hooks& hooks) {
  const int64_t epoch = result_.epochs + 1;
  check_finite(bad_step_.eq(0).all());
  const double rate = static_cast<double>(train.usable_rows()) / epoch_seconds_;
  hooks.log({{"kind", "epoch"}, {"epoch", epoch}, {"step", step_}, {"samples_per_second", rate}, {"seconds", epoch_seconds_}});
  result_.samples_per_second += (rate - result_.samples_per_second) / static_cast<double>(epoch);
  result_.train_seconds += std::exchange(epoch_seconds_, 0.0);

  std::optional<htl::WeightAverage::Guard> averaged;
  if (average_) averaged.emplace(average_->apply());
  bool is_best = true;
  char text[200];
  if (valid.rows() > 0) {
    const Evaluation found = evaluate(net_, tasks_, valid, groups, device_);
    const nlohmann::json& chosen = found.metrics.at(selection.task).at(selection.metric);
    HTL_CHECK(chosen.is_number() || kept_, "htlnet: ", selection.task, ".", selection.metric,
              " is not defined on the validation rows (one class, or no label?); choose another --select-by");
    const double value = chosen.is_number() ? chosen.get<double>() : std::numeric_limits<double>::quiet_NaN();
    is_best = epoch == 1 || selection.better(value, result_.best_value);
    if (is_best) result_.best_value = value;
    hooks.log({{"kind", "evaluation"}, {"split", "valid"}, {"epoch", epoch}, {"step", step_}, {"metrics", found.metrics}, {"by_group", found.by_group}});
    std::snprintf(text, sizeof(text), "epoch %lld/%lld  %s.%s %.5f%s  %.0f rows/s", static_cast<long long>(epoch),
                  static_cast<long long>(options_.train.epochs), selection.task.c_str(), selection.metric.c_str(), value, is_best ? " (best)" : "", rate);
  } else {
    std::snprintf(text, sizeof(text), "epoch %lld/%lld  %.0f rows/s", static_cast<long long>(epoch), static_cast<long long>(options_.train.epochs), rate);
  }
  progress.line(text);
  if (is_best) {
    result_.best_epoch = epoch;
    hooks.keep();
    kept_ = true;
  }
  averaged.reset();
  result_.epochs = epoch;
  if (net_->balancer) net_->balancer->end_epoch();
  hooks.checkpoint(step_);
}

}  // namespace htlnet
