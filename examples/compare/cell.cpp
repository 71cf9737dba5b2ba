// SPDX-License-Identifier: Apache-2.0
#include "cell.hpp"

#include "optimizers.hpp"

#include <examples/htlnet/adjuster.hpp>
#include <examples/htlnet/batch_parts.hpp>
#include <examples/htlnet/id_dropout.hpp>
#include <examples/htlnet/machine.hpp>
#include <examples/models/models.hpp>

#include <htl/balance/balancer.hpp>
#include <htl/balance/built_in_balancers.hpp>
#include <htl/data/batch_loader.hpp>
#include <htl/loss/hybrid_loss.hpp>

#include <torch/types.h>
#include <torch/utils.h>

#include <chrono>
#include <cstdlib>

namespace compare {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

/// A figure of /proc/self/status in MB; 0 where there is none.
double memory_mb(const std::string& name) { return std::strtod(htlnet::proc_field("/proc/self/status", name).c_str(), nullptr) / 1024.0; }

/// The rows of a cell.
struct Rows {
  htl::TableData train, valid, test;
  static Rows of(const htlnet::Dataset& data, const Kind& kind) {
    return {rows_of(data.train, data.tasks, kind), rows_of(data.valid, data.tasks, kind), rows_of(data.test, data.tasks, kind)};
  }
};

/// A model's predictions of all rows.
htl::Predictions predict(models::Model& model, const htl::TaskSet& tasks, const htl::TableData& rows) {
  const torch::InferenceMode inference;
  model.eval();
  std::vector<std::vector<at::Tensor>> parts(static_cast<size_t>(tasks.size()));
  htl::BatchLoader loader(rows, {.batch_size = 8192, .shuffle = false});
  for (const htl::Batch& batch : loader) {
    const htl::Predictions predictions = tasks.predict(model.forward(batch), batch.labels.context);
    for (int64_t t = 0; t < tasks.size(); ++t) parts[static_cast<size_t>(t)].push_back(predictions[tasks[t].name()]);
  }
  model.train();
  htl::Predictions result;
  for (int64_t t = 0; t < tasks.size(); ++t) result.set(tasks[t].name(), at::cat(parts[static_cast<size_t>(t)]));
  return single_precision(result);
}

/// A model on its way to its best epoch.
class Training {
 public:
  Training(const Setup& setup, const Cell& cell, const std::function<bool()>& is_asked_to_stop)
      : setup_(setup),
        cell_(cell),
        is_asked_to_stop_(is_asked_to_stop),
        memory_before_(memory_mb("VmRSS")),
        rows_(Rows::of(setup.data, cell.kind)),
        measured_(measured_tasks(setup, cell.kind)),
        named_(models::all_models()[cell.kind.model]),
        tasks_(named_.tasks(tasks_of(setup.data.tasks, cell.kind)).fitted(rows_.train.labels())),
        selection_(selection_of(setup, cell.kind)),
        group_(group_column(setup.options, setup.data)),
        model_(named_.make(model_options())),
        id_dropout_(model_->embedding->options.sizes(), train().id_dropout),
        loss_(tasks_),
        loader_(rows_.train, {.batch_size = train().batch_size, .shuffle = true, .seed = cell.seed}) {
    if (cell.kind.balancer != "none") balancer_ = htl::Balancer<htl::AnyBalance>(tasks_, htl::built_in_balancers().make(htl::parse_spec(cell.kind.balancer)));
    optimizers_ = std::make_unique<Optimizers>(*model_, balancer_ ? balancer_->parameters() : std::vector<at::Tensor>(), with_rates(),
                                               std::max<int64_t>(1, loader_.batches()));
  }

  std::optional<CellResult> run() {
    CellResult best;
    nlohmann::ordered_json curve = nlohmann::ordered_json::array();
    double best_value = std::numeric_limits<double>::quiet_NaN(), train_seconds = 0.0;
    std::vector<double> step_times;
    int64_t best_epoch = 0, epoch = 0;
    const auto is_over = [&] { return epoch >= train().epochs || (train().patience > 0 && rows_.valid.rows() > 0 && epoch - best_epoch >= train().patience); };
    while (epoch == 0 || !is_over()) {
      ++epoch;
      const auto start = Clock::now();
      if (!train_epoch()) return std::nullopt;
      const double seconds = seconds_since(start);
      train_seconds += seconds;
      step_times.push_back(1e3 * seconds / static_cast<double>(loader_.batches()));
      nlohmann::ordered_json point = {{"epoch", epoch}, {"loss", mean_loss_}};
      const auto averaged = optimizers_->averaged();
      double value = std::numeric_limits<double>::quiet_NaN();
      nlohmann::json found;
      if (rows_.valid.rows() > 0) {
        found = measure(measured_, predict(*model_, tasks_, rows_.valid), rows_.valid.labels(), group_);
        const nlohmann::json& chosen = found.at(selection_.task).at(selection_.metric);
        HTL_CHECK(chosen.is_number() || epoch > 1, selection_.task, ".", selection_.metric,
                  ", by which epochs are chosen, is not defined for the first epoch's predictions of the validation rows; choose another --select-by");
        if (chosen.is_number()) value = chosen.get<double>();
        point["valid"] = found;
      }
      curve.push_back(point);
      if (epoch > 1 && rows_.valid.rows() > 0 && !selection_.better(value, best_value)) continue;
      best_value = value;
      best_epoch = epoch;
      best.figures["valid"] = found;
      best.test = predict(*model_, tasks_, rows_.test);
    }
    if (cell_.draw < 0) best.figures["test"] = measure(measured_, best.test, rows_.test.labels(), group_);
    best.figures["selected_by"] = selection_.task + "." + selection_.metric;
    best.figures["selected_value"] = htlnet::to_json(best_value);
    best.figures["best_epoch"] = best_epoch;
    best.figures["epochs"] = epoch;
    best.figures["curve"] = curve;
    std::sort(step_times.begin(), step_times.end());
    best.figures["cost"] = {{"ms_per_step", step_times[step_times.size() / 2]},
                            {"steps", optimizers_->steps()},
                            {"train_seconds", train_seconds},
                            {"memory_mb", std::max(0.0, memory_mb("VmHWM") - memory_before_)},
                            {"parameters", parameters()},
                            {"dense_parameters", parameters() - model_->embedding->weight.numel()},
                            {"threads", torch::get_num_threads()}};
    return best;
  }

 private:
  const htlnet::TrainOptions& train() const { return setup_.options.base.train; }
  htlnet::TrainOptions with_rates() const {
    htlnet::TrainOptions options = train();
    options.row_lr = cell_.rates.row_lr;
    options.dense_lr = cell_.rates.dense_lr;
    options.weight_decay = cell_.rates.weight_decay;
    return options;
  }
  models::ModelOptions model_options() const {
    const CompareOptions& options = setup_.options;
    const htlnet::ModelOptions& base = options.base.model;
    models::ModelOptions result{tasks_, *setup_.inputs};
    htlnet::ModelOptions adjuster;
    adjuster.adjuster = cell_.kind.adjuster;
    result.adjuster = htlnet::adjuster_of(adjuster);
    result.tower = base.tower;
    result.trunk = options.trunk;
    result.tower_above_trunk = options.tower_above_trunk;
    result.experts = options.experts;
    result.gate_dropout = options.gate_dropout;
    result.dropout = cell_.rates.dropout;
    return result;
  }
  int64_t parameters() const {
    int64_t count = 0;
    for (const at::Tensor& parameter : model_->parameters()) count += parameter.numel();
    return count;
  }

  /// @returns whether it came to the epoch's end
  bool train_epoch() {
    model_->train();
    double sum = 0.0;
    for (const htl::Batch& given : loader_) {
      if (is_asked_to_stop_()) return false;
      const htl::Batch batch = id_dropout_(given);
      optimizers_->zero_grad();
      const std::vector<htl::Batch> parts = htlnet::batch_parts(batch, model_->batches());
      std::vector<htl::TaskLosses> losses;
      for (const htl::Batch& part : parts) {
        losses.push_back(loss_(model_->forward(part), part.labels));
        for (const auto& [name, loss] : losses.back().values) {
          const double value = loss.item<double>();
          HTL_CHECK(std::isfinite(value), "the loss of task \"", name, "\" was not finite in step ", optimizers_->steps() + 1);
          sum += value / static_cast<double>(parts.size());
        }
      }
      if (balancer_)
        for (htl::TaskLosses& of_part : losses) of_part = balancer_(of_part);
      model_->backward(losses);
      optimizers_->step();
      const bool adjuster_listens = model_->fork->method().observes() && cell_.kind.adjuster != "sum";
      if (adjuster_listens || (balancer_ && balancer_->method().observes())) {
        const torch::NoGradGuard no_grad;
        const htl::TaskLosses after = loss_(model_->forward(batch), batch.labels);
        adjuster_listens ? model_->fork->observe(after) : balancer_->observe(after);
      }
    }
    if (balancer_) balancer_->end_epoch();
    mean_loss_ = sum / static_cast<double>(loader_.batches());
    return true;
  }

  const Setup& setup_;
  const Cell& cell_;
  const std::function<bool()>& is_asked_to_stop_;
  double memory_before_;
  Rows rows_;
  htl::TaskSet measured_;  // the data set's own: what metrics are of
  models::NamedModel named_;
  htl::TaskSet tasks_;  // the model's
  htlnet::Selection selection_;
  std::string group_;
  std::shared_ptr<models::Model> model_;
  htlnet::IdDropout id_dropout_;
  htl::HybridLoss loss_;
  htl::BatchLoader loader_;
  htl::Balancer<htl::AnyBalance> balancer_{nullptr};
  std::unique_ptr<Optimizers> optimizers_;
  double mean_loss_ = 0.0;  // of an epoch's steps: the plain sum of the tasks' losses
};

}  // namespace

std::optional<CellResult> run_cell(const Setup& setup, const Cell& cell, const std::function<bool()>& is_asked_to_stop) {
  try {
    if (cell.kind.is_bound()) {
      CellResult result;
      result.test = bound_predictions(setup, cell.kind.model);
      result.figures["test"] = measure_test(setup, cell.kind, result.test);
      return result;
    }
    torch::manual_seed(cell.seed);
    return Training(setup, cell, is_asked_to_stop).run();
  } catch (const c10::Error& error) {
    if (htlnet::is_out_of_memory(error)) throw;  // of the machine, not of the cell: another time it may go well
    CellResult failed;
    failed.figures["failed"] = error.what_without_backtrace();
    return failed;
  }
}

std::vector<std::string> known_models() { return models::all_models().names(); }

}  // namespace compare
