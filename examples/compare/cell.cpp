// SPDX-License-Identifier: Apache-2.0
#include "cell.hpp"

#include "averages.hpp"
#include "optimizers.hpp"

#include <examples/htlnet/adjuster.hpp>
#include <examples/htlnet/data/load.hpp>
#include <examples/htlnet/data/synthetic_dataset.hpp>
#include <examples/htlnet/evaluate.hpp>
#include <examples/models/models.hpp>

#include <htl/balance/balancer.hpp>
#include <htl/balance/built_in_balancers.hpp>
#include <htl/data/batch_loader.hpp>
#include <htl/loss/built_in_losses.hpp>
#include <htl/loss/hybrid_loss.hpp>
#include <htl/metrics/grouped_auc.hpp>
#include <htl/metrics/task_metrics.hpp>
#include <htl/task/built_in_transforms.hpp>

#include <torch/types.h>
#include <torch/utils.h>

#include <chrono>
#include <fstream>

namespace compare {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

/// A figure of /proc/self/status in MB; 0 where there is none.
double memory_mb(const std::string& key) {
  std::ifstream file("/proc/self/status");
  for (std::string line; std::getline(file, line);)
    if (line.starts_with(key + ":")) return std::atof(line.c_str() + key.size() + 1) / 1024.0;
  return 0.0;
}

/// The task without losses of its own.
htl::TaskSpec without_losses(const htl::TaskSpec& task) {
  htl::TaskSpec result(task.name(), task.kind(), task.classes());
  if (task.parents()) result = result.after(*task.parents());
  return result.core(task.is_core())
      .calibration(task.calibration())
      .observed_when(task.observed_when())
      .weight(task.weight())
      .mask_column(task.mask_column())
      .weight_column(task.weight_column());
}

/// The rows with the labels of one task only, masked where it is not observed.
htl::TableData rows_of_task(const htl::TableData& rows, const htl::TaskSet& tasks, const std::string& name) {
  htl::Batch all = rows.all();
  htl::Label label = all.labels[name];
  label.mask = tasks.observed(tasks.index(name), all.labels);
  htl::Labels labels;
  labels.context = all.labels.context;
  all.labels = labels.set(name, label);
  return htl::TableData(std::move(all));
}

/// The rows of a cell.
struct Rows {
  htl::TableData train, valid, test;
  static Rows of(const htlnet::Dataset& data, const Kind& kind) {
    if (kind.task.empty()) return {data.train, data.valid, data.test};
    const auto part = [&](const htl::TableData& rows) { return rows.rows() > 0 ? rows_of_task(rows, data.tasks, kind.task) : rows; };
    return {part(data.train), part(data.valid), part(data.test)};
  }
};

htl::Predictions single_precision(const htl::Predictions& predictions) {
  htl::Predictions result;
  for (const auto& [name, value] : predictions) result.set(name, value.to(at::kCPU, at::kFloat).contiguous());
  return result;
}

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
        measured_(cell.kind.task.empty() ? setup.data.tasks : tasks_of(setup.data.tasks, cell.kind)),
        named_(models::all_models()[cell.kind.model]),
        tasks_(named_.tasks(tasks_of(setup.data.tasks, cell.kind)).fitted(rows_.train.labels())),
        selection_(htlnet::Selection::parse(cell.kind.task.empty() ? setup.options.base.train.select_by : "", measured_, setup.data.groups)),
        group_(group_column(setup.options, setup.data)),
        model_(named_.make(model_options())),
        loss_(tasks_),
        loader_(rows_.train, {.batch_size = train().batch_size, .shuffle = true, .seed = cell.seed}) {
    if (cell.kind.balancer != "none") balancer_ = htl::Balancer<htl::AnyBalance>(tasks_, htl::built_in_balancers().make(htl::parse_spec(cell.kind.balancer)));
    optimizers_ = std::make_unique<Optimizers>(*model_, balancer_ ? balancer_->parameters() : std::vector<at::Tensor>(), train(), cell.rates,
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
        HTL_CHECK(found[selection_.task].contains(selection_.metric), "compare: --select-by ", selection_.task, ".", selection_.metric,
                  " is not measured here; leave it out");
        const nlohmann::json& chosen = found[selection_.task][selection_.metric];
        if (chosen.is_number()) value = chosen.get<double>();
        point["valid"] = found;
      }
      curve.push_back(point);
      if (epoch > 1 && rows_.valid.rows() > 0 && !selection_.better(value, best_value)) continue;
      best_value = value;
      best_epoch = epoch;
      best.figures["valid"] = found;
      if (cell_.draw < 0) best.test = predict(*model_, tasks_, rows_.test);
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
  models::ModelOptions model_options() const {
    const CompareOptions& options = setup_.options;
    const htlnet::ModelOptions& base = options.base.model;
    const htl::FeatureMap& features = setup_.data.features;
    models::ModelOptions result{
        tasks_, htl::FieldEmbeddingOptions(features, base.embedding_dim).unknown_ids(htl::UnknownIds::map_to_zero).initial_sd(base.embedding_sd)};
    result.numeric_width = static_cast<int64_t>(features.numeric().size());
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
    for (const htl::Batch& batch : loader_) {
      if (is_asked_to_stop_()) return false;
      optimizers_->zero_grad();
      const htl::TaskLosses losses = loss_(model_->forward(batch), batch.labels);
      for (const auto& [name, loss] : losses.values) {
        const double value = loss.item<double>();
        HTL_CHECK(std::isfinite(value), "the loss of task \"", name, "\" was not finite in step ", optimizers_->steps() + 1);
        sum += value;
      }
      model_->backward(balancer_ ? balancer_(losses) : losses);
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
  htl::HybridLoss loss_;
  htl::BatchLoader loader_;
  htl::Balancer<htl::AnyBalance> balancer_{nullptr};
  std::unique_ptr<Optimizers> optimizers_;
  double mean_loss_ = 0.0;  // of an epoch's steps: the plain sum of the tasks' losses
};

/// What is known without a network.
CellResult bound(const Setup& setup, const std::string& name) {
  const htlnet::Options& base = setup.options.base;
  CellResult result;
  if (name == "averages") {
    result.test = single_precision(averages(setup.data));
  } else {
    const auto rows = htlnet::synthetic_bounds(base.data.rows);
    const htlnet::SyntheticOptions synthetic = htlnet::synthetic_of(base);
    result.test =
        single_precision(name == "oracle" ? htlnet::synthetic_oracle(synthetic, rows[2], rows[3]) : htlnet::synthetic_additive(synthetic, rows[2], rows[3]));
  }
  result.figures["test"] = measure(setup.data.tasks, result.test, setup.data.test.labels(), group_column(setup.options, setup.data));
  return result;
}

}  // namespace

htl::TaskSet tasks_of(const htl::TaskSet& tasks, const Kind& kind) {
  std::vector<htl::TaskSpec> specs;
  for (const htl::TaskSpec& task : tasks) {
    if (!kind.task.empty() && task.name() != kind.task) continue;
    htl::TaskSpec spec = task;
    if (kind.loss != as_the_data_say && task.is_core() && task.kind() == htl::TaskKind::regression) {
      const size_t at = kind.loss.find('@');
      spec = without_losses(task)
                 .transform(htl::built_in_transforms().make(htl::parse_spec(kind.loss.substr(at + 1))))
                 .loss(htl::built_in_losses().make(htl::parse_spec(kind.loss.substr(0, at))));
    }
    if (!kind.task.empty()) spec = spec.after().observed_when("");
    specs.push_back(spec);
  }
  return htl::TaskSet(std::move(specs));
}

std::string group_column(const CompareOptions& options, const htlnet::Dataset& data) {
  const htl::Named<at::Tensor>& context = data.test.labels().context;
  const auto is_group = [&](const std::string& name) {
    const at::Tensor* const column = context.find(name);
    return column && !column->is_floating_point();
  };
  if (!options.group.empty()) {
    std::vector<std::string> known;
    for (const std::string& name : context.names())
      if (is_group(name)) known.push_back(name);
    HTL_CHECK(is_group(options.group), "compare: --group \"", options.group, "\" is no column of groups; the data have ",
              known.empty() ? "none" : htl::quoted(known));
    return options.group;
  }
  for (const char* name : {"user", "user_id"})
    if (is_group(name)) return name;
  return "";
}

nlohmann::json measure(const htl::TaskSet& tasks, const htl::Predictions& predictions, const htl::Labels& labels, const std::string& group) {
  htl::TaskMetrics metrics(tasks);
  metrics.add(predictions, labels);
  nlohmann::json result = htlnet::to_json(metrics.values());
  if (group.empty()) return result;
  for (int64_t t = 0; t < tasks.size(); ++t) {
    if (tasks[t].kind() != htl::TaskKind::binary) continue;
    htl::Label label = labels[tasks[t].name()];
    label.mask = tasks.observed(t, labels);
    htl::GroupedAuc within;
    within.add(predictions[tasks[t].name()], label, labels.context[group]);
    result[tasks[t].name()]["gauc"] = htlnet::to_json(within.value());
  }
  return result;
}

std::optional<CellResult> run_cell(const Setup& setup, const Cell& cell, const std::function<bool()>& is_asked_to_stop) {
  try {
    if (cell.kind.is_bound()) return bound(setup, cell.kind.model);
    torch::manual_seed(cell.seed);
    return Training(setup, cell, is_asked_to_stop).run();
  } catch (const c10::Error& error) {
    CellResult failed;
    failed.figures["failed"] = error.what_without_backtrace();
    return failed;
  }
}

}  // namespace compare
