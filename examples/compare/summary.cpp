// SPDX-License-Identifier: Apache-2.0
#include "summary.hpp"

#include "expression.hpp"

#include <htl/metrics/grouped_auc.hpp>
#include <htl/metrics/ndcg.hpp>
#include <htl/metrics/task_metrics.hpp>

#include <ATen/ops/empty.h>

#include <algorithm>
#include <optional>

namespace compare {
namespace {

constexpr int64_t ndcg_positions = 10;

/// One cell as the summary needs it.
struct Read {
  CellResult result;
  nlohmann::json test;  // by task and metric, the score's among them
};
using ReadKind = std::vector<std::optional<Read>>;  // by seed; nothing where it failed or is no cell

std::vector<Measured> columns_of(const htl::TaskSet& tasks, bool grouped) {
  std::vector<Measured> columns;
  for (const htl::TaskSpec& task : tasks) {
    const auto add = [&](const std::string& metric, bool is_main = false) {
      columns.push_back({task.name(), metric, htl::TaskMetrics::greater_is_better(metric) || metric == "gauc", is_main});
    };
    if (task.kind() == htl::TaskKind::binary) {
      add("auc", true);
      if (grouped) add("gauc");
      add("log_loss");
    } else if (task.kind() == htl::TaskKind::multiclass) {
      add("log_loss", true);
      add("accuracy");
    } else {
      add("nrmse", true);
      for (const char* metric : {"spearman", "normalized_gini", "mae"}) add(metric);
    }
  }
  return columns;
}

double value_of(const nlohmann::json& test, const Measured& column) {
  if (!test.contains(column.task) || !test[column.task].contains(column.metric)) return undefined;
  const nlohmann::json& value = test[column.task][column.metric];
  return value.is_number() ? value.get<double>() : undefined;
}

/// The rows of a task's main metric, ready to be resampled.
ResampledMetric resampled(const htl::TaskSet& tasks, int64_t t, const at::Tensor& prediction, const htl::Labels& labels) {
  const htl::TaskSpec& task = tasks[t];
  const at::Tensor guesses = prediction.to(at::kDouble).contiguous(), label = labels[task.name()].value.to(at::kDouble).contiguous(),
                   mask = tasks.observed(t, labels);
  const at::Tensor seen = mask.defined() ? mask.contiguous() : mask,
                   given = labels[task.name()].weight.defined() ? labels[task.name()].weight.to(at::kDouble).contiguous() : at::Tensor();
  std::vector<ResampledMetric::Row> rows;
  for (int64_t r = 0; r < label.size(0); ++r) {
    const double weight = given.defined() ? given.const_data_ptr<double>()[r] : 1.0, y = label.const_data_ptr<double>()[r];
    if ((seen.defined() && !seen.const_data_ptr<bool>()[r]) || weight == 0.0) continue;
    const int64_t at = task.kind() == htl::TaskKind::multiclass ? r * task.classes() + static_cast<int64_t>(y) : r;
    const double guess = guesses.const_data_ptr<double>()[at];
    rows.push_back({static_cast<int32_t>(r), weight, task.kind() == htl::TaskKind::multiclass ? -std::log(std::max(guess, 1e-12)) : guess, y});
  }
  return task.kind() == htl::TaskKind::binary       ? ResampledMetric::auc(std::move(rows))
         : task.kind() == htl::TaskKind::regression ? ResampledMetric::nrmse(rows)
                                                    : ResampledMetric::mean(rows);
}

/// The fused score of every row, [N] float64; undefined where it is not finite somewhere.
at::Tensor score_of(const Expression& expression, const std::vector<std::string>& names, const htl::Predictions& predictions) {
  std::vector<at::Tensor> columns;
  for (const std::string& name : names) columns.push_back(predictions[name].to(at::kDouble).contiguous());
  at::Tensor scores = at::empty({columns.front().size(0)}, at::kDouble);
  std::vector<double> values(names.size());
  for (int64_t r = 0; r < scores.size(0); ++r) {
    for (size_t c = 0; c < columns.size(); ++c) values[c] = columns[c].const_data_ptr<double>()[r];
    const double score = expression(values);
    if (!std::isfinite(score)) return {};
    scores.mutable_data_ptr<double>()[r] = score;
  }
  return scores;
}

/// Adds the score's figures to a cell's, and its columns to the tables'.
class Fused {
 public:
  Fused(const Setup& setup, std::string group) : tasks_(setup.data.tasks), labels_(setup.data.test.labels()), group_(std::move(group)) {
    for (const htl::TaskSpec& task : tasks_)
      if (task.kind() != htl::TaskKind::multiclass) names_.push_back(task.name());
    if (!setup.options.score.empty()) expression_.emplace(setup.options.score, names_);
  }
  std::vector<Measured> columns() const {
    std::vector<Measured> columns;
    if (!expression_ || group_.empty()) return columns;
    for (const htl::TaskSpec& task : tasks_) {
      if (task.kind() == htl::TaskKind::binary) columns.push_back({"score", "gauc(" + task.name() + ")"});
      if (ranks(task)) columns.push_back({"score", "ndcg@10(" + task.name() + ")"});
    }
    return columns;
  }
  /// @returns whether the score is finite everywhere
  bool add_to(Read& read) const {
    if (!expression_ || group_.empty()) return true;
    const at::Tensor score = score_of(*expression_, names_, read.result.test);
    if (!score.defined()) return false;
    for (int64_t t = 0; t < tasks_.size(); ++t) {
      const htl::TaskSpec& task = tasks_[t];
      htl::Label label = labels_[task.name()];
      label.mask = tasks_.observed(t, labels_);
      if (task.kind() == htl::TaskKind::binary) {
        htl::GroupedAuc within;
        within.add(score, label, labels_.context[group_]);
        read.test["score"]["gauc(" + task.name() + ")"] = within.value();
      }
      if (ranks(task)) {
        label.weight = at::Tensor();
        htl::Ndcg ndcg({.top = ndcg_positions});
        ndcg.add(score, label, labels_.context[group_]);
        read.test["score"]["ndcg@10(" + task.name() + ")"] = ndcg.value();
      }
    }
    return true;
  }

 private:
  /// Whether a task's label is what a list should bring: a core one that is never below 0.
  bool ranks(const htl::TaskSpec& task) const {
    return task.is_core() && task.kind() != htl::TaskKind::multiclass && labels_[task.name()].value.numel() > 0 &&
           !labels_[task.name()].value.lt(0).any().item<bool>();
  }

  const htl::TaskSet& tasks_;
  const htl::Labels& labels_;
  std::string group_;
  std::vector<std::string> names_;
  std::optional<Expression> expression_;
};

/// Reads a kind's cells, and the failures among them.
ReadKind read_kind(const Store& store, const std::vector<Cell>& cells, const Kind& kind, KindSummary& into) {
  ReadKind read;
  for (const Cell& cell : cells) {
    if (!(cell.kind == kind)) continue;
    into.rates = cell.rates;
    Read one{store.read(cell, true), {}};
    if (one.result.figures.contains("failed")) {
      into.failures.push_back("seed " + std::to_string(cell.seed) + ": " + one.result.figures["failed"].get<std::string>());
      read.emplace_back();
      continue;
    }
    one.test = one.result.figures["test"];
    read.push_back(std::move(one));
  }
  return read;
}

void add_costs(const ReadKind& read, KindSummary& into) {
  std::vector<double> ms, memory, best;
  for (const auto& one : read) {
    if (!one || !one->result.figures.contains("cost")) continue;
    const nlohmann::ordered_json &figures = one->result.figures, &cost = figures["cost"];
    ms.push_back(cost["ms_per_step"]);
    memory.push_back(cost["memory_mb"]);
    into.parameters = cost["parameters"];
    if (!figures.contains("best_epoch")) continue;  // several models together
    best.push_back(figures["best_epoch"].get<double>());
    into.curve_of = figures["selected_by"];
    const size_t dot = into.curve_of.find('.');
    auto& curve = into.curves.emplace_back();
    for (const auto& point : figures["curve"]) {
      if (!point.contains("valid")) continue;
      const auto& value = point["valid"][into.curve_of.substr(0, dot)][into.curve_of.substr(dot + 1)];
      if (value.is_number()) curve.emplace_back(point["epoch"].get<int64_t>(), value.get<double>());
    }
  }
  into.ms_per_step = moments_of(ms);
  into.memory_mb = moments_of(memory);
  into.best_epoch = moments_of(best);
}

/// The single-task models of one seed as one: predictions and metrics side by side, costs added up.
ReadKind together(const std::vector<ReadKind>& kinds, int64_t seeds) {
  ReadKind result;
  for (int64_t s = 0; s < seeds; ++s) {
    Read all;
    double ms = 0.0, memory = 0.0;
    int64_t parameters = 0;
    bool whole = true;
    for (const ReadKind& kind : kinds) {
      const auto& one = kind[static_cast<size_t>(s)];
      whole = whole && one.has_value();
      if (!whole) break;
      for (const auto& [name, value] : one->result.test) all.result.test.set(name, value);
      all.test.update(one->test);
      const auto& cost = one->result.figures["cost"];
      ms += cost["ms_per_step"].get<double>();
      memory += cost["memory_mb"].get<double>();
      parameters += cost["parameters"].get<int64_t>();
    }
    all.result.figures["cost"] = {{"ms_per_step", ms}, {"memory_mb", memory}, {"parameters", parameters}};
    result.push_back(whole ? std::optional<Read>(std::move(all)) : std::nullopt);
  }
  return result;
}

}  // namespace

size_t Summary::column(const std::string& task, const std::string& metric) const {
  return static_cast<size_t>(std::find_if(columns.begin(), columns.end(), [&](const Measured& c) { return c.task == task && c.metric == metric; }) -
                             columns.begin());
}

Summary summarize(const Setup& setup, const Store& store, const std::vector<Kind>& kinds, const std::vector<Cell>& cells) {
  const htl::TaskSet& tasks = setup.data.tasks;
  const htl::Labels& labels = setup.data.test.labels();
  Summary summary;
  summary.seeds = setup.options.seeds;
  summary.test_rows = setup.data.test.rows();
  summary.score = setup.options.score;
  summary.group = group_column(setup.options, setup.data);
  if (!tasks.cores().empty()) summary.core = tasks[tasks.cores().front()].name();
  const Fused fused(setup, summary.group);
  summary.columns = columns_of(tasks, !summary.group.empty());
  for (const Measured& column : fused.columns()) summary.columns.push_back(column);
  if (summary.group.empty())
    summary.notes.push_back("The data have no column \"user\" or \"user_id\": there are no figures within groups (--group names another column).");
  else if (summary.score.empty())
    summary.notes.push_back("No --score was given: there is no fused score.");

  // Rows of the tables: the single-task models are one
  std::vector<ReadKind> reads, singles;
  KindSummary single{.kind = {"single_task", "sum", "", "none", ""}, .rates = setup.options.rates()};
  for (const Kind& kind : kinds) {
    KindSummary of{.kind = kind};
    ReadKind read = read_kind(store, cells, kind, of);
    if (!kind.task.empty()) {
      single.kind.loss = kind.loss;
      for (const std::string& failure : of.failures) single.failures.push_back(kind.task + ", " + failure);
      singles.push_back(std::move(read));
      continue;
    }
    reads.push_back(std::move(read));
    summary.kinds.push_back(std::move(of));
  }
  const size_t networks =
      static_cast<size_t>(std::count_if(summary.kinds.begin(), summary.kinds.end(), [](const KindSummary& of) { return !of.kind.is_bound(); }));
  if (!singles.empty()) {
    reads.insert(reads.begin() + static_cast<std::ptrdiff_t>(networks), together(singles, summary.seeds));
    summary.kinds.insert(summary.kinds.begin() + static_cast<std::ptrdiff_t>(networks), std::move(single));
  } else {
    summary.notes.push_back("Without single-task models there is no gain over them.");
  }

  bool is_finite = true;
  for (size_t k = 0; k < reads.size(); ++k) {
    KindSummary& of = summary.kinds[k];
    add_costs(reads[k], of);
    for (auto& one : reads[k])
      if (one) is_finite = fused.add_to(*one) && is_finite;
    for (const Measured& column : summary.columns) {
      Figure figure;
      for (const auto& one : reads[k]) figure.by_seed.push_back(one ? value_of(one->test, column) : undefined);
      figure.moments = moments_of(figure.by_seed);
      if (of.kind.is_bound()) figure.by_seed.assign(static_cast<size_t>(summary.seeds), figure.by_seed.front());  // the same beside every seed
      of.figures.push_back(std::move(figure));
    }
  }
  if (!is_finite) summary.notes.push_back("The score is not finite for all rows of some cells, which then have no figures of it.");

  std::vector<Kind> shown;
  for (const KindSummary& of : summary.kinds) shown.push_back(of.kind);
  summary.reference = reference_of(shown, setup.options.reference);
  for (KindSummary& of : summary.kinds)
    for (size_t c = 0; c < summary.columns.size(); ++c)
      of.figures[c].by_seeds = paired_difference(of.figures[c].by_seed, summary.kinds[summary.reference].figures[c].by_seed);

  // Gains over the single-task models, seed by seed
  std::vector<bool> greater;
  for (const Measured& column : summary.columns)
    if (column.is_main) greater.push_back(column.greater_is_better);
  const auto main_values = [&](const KindSummary& of, size_t seed) {
    std::vector<double> values;
    for (size_t c = 0; c < summary.columns.size(); ++c)
      if (summary.columns[c].is_main) values.push_back(of.figures[c].by_seed[seed]);
    return values;
  };
  for (KindSummary& of : summary.kinds) {
    std::vector<double> gains;
    for (size_t s = 0; !singles.empty() && s < static_cast<size_t>(summary.seeds); ++s)
      gains.push_back(relative_gain(main_values(of, s), main_values(summary.kinds[networks], s), greater));
    of.gain = moments_of(gains);
  }

  // Differences over resampled rows
  summary.replicates = setup.options.bootstrap;
  if (summary.replicates > 0 && summary.test_rows > 0) {
    std::vector<int32_t> unit(static_cast<size_t>(summary.test_rows));
    int64_t units = summary.test_rows;
    if (summary.group.empty()) {
      std::iota(unit.begin(), unit.end(), 0);
    } else {
      std::map<int64_t, int32_t> seen;
      const at::Tensor groups = labels.context[summary.group].to(at::kLong).contiguous();
      for (size_t r = 0; r < unit.size(); ++r) unit[r] = seen.try_emplace(groups.const_data_ptr<int64_t>()[r], static_cast<int32_t>(seen.size())).first->second;
      units = static_cast<int64_t>(seen.size());
    }
    for (size_t c = 0; c < summary.columns.size(); ++c) {
      if (!summary.columns[c].is_main) continue;
      std::vector<std::vector<ResampledMetric>> models;
      for (const ReadKind& read : reads) {
        auto& of = models.emplace_back();
        for (const auto& one : read)
          if (one) of.push_back(resampled(tasks, tasks.index(summary.columns[c].task), one->result.test[summary.columns[c].task], labels));
      }
      const auto values = resample(models, unit, units, summary.replicates, 1);
      for (size_t k = 0; k < reads.size(); ++k)
        if (k != summary.reference) summary.kinds[k].figures[c].by_rows = interval_of(values[k], values[summary.reference]);
    }
  }
  return summary;
}

}  // namespace compare
