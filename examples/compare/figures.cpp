// SPDX-License-Identifier: Apache-2.0
#include "figures.hpp"

#include <array>
#include <cmath>
#include <cstdio>

namespace compare {
namespace {

/// A number for a file: all digits, nothing where there is none.
std::string digits(double value) {
  if (!std::isfinite(value)) return "";
  char text[48];
  std::snprintf(text, sizeof(text), "%.10g", value);
  return text;
}
std::string csv_field(const std::string& text) {
  if (text.find_first_of(",\"\n") == std::string::npos) return text;
  std::string quoted = "\"";
  for (const char c : text) quoted += c == '"' ? "\"\"" : std::string(1, c);
  return quoted + "\"";
}

/// A figure of a whole kind, beside those of its tasks.
struct OfKind {
  const char* name;
  const char* greater_is_better;  // as the files say it; empty = neither
  Figure KindSummary::*figure;
};
constexpr std::array<OfKind, 5> of_kinds = {OfKind{"gain", "true", &KindSummary::gain}, OfKind{"ms_per_step", "false", &KindSummary::ms_per_step},
                                            OfKind{"memory_mb", "false", &KindSummary::memory_mb}, OfKind{"parameters", "false", &KindSummary::parameters},
                                            OfKind{"best_epoch", "", &KindSummary::best_epoch}};

/// Calls visit(task, metric, greater_is_better, figure) for all figures of a kind that it can have: those of its tasks, their shares of the gap, then those of
/// the whole, which have no task. What has no network costs nothing.
template <class Visit>
void visit_figures(const Summary& summary, const KindSummary& of, const Visit& visit) {
  for (size_t c = 0; c < summary.columns.size(); ++c)
    visit(summary.columns[c].task, summary.columns[c].metric, summary.columns[c].greater_is_better ? "true" : "false", of.figures[c]);
  for (size_t c = 0; c < of.shares.size(); ++c) visit(summary.columns[c].task, summary.columns[c].metric + " share_of_gap", "true", of.shares[c]);
  for (const OfKind& whole : of_kinds)
    if (!of.kind.is_bound() || whole.figure == &KindSummary::gain) visit("", whole.name, whole.greater_is_better, of.*whole.figure);
}

}  // namespace

std::string results_csv(const Summary& summary) {
  std::string csv = "model,adjuster,loss,balancer,task,metric,greater_is_better,mean,sd,seeds,difference,p_seeds,low,high,p_rows\n";
  for (const KindSummary& of : summary.kinds)
    visit_figures(summary, of, [&](const std::string& task, const std::string& metric, const char* greater_is_better, const Figure& figure) {
      for (const std::string& text : {of.kind.model, of.kind.adjuster, of.kind.loss, of.kind.balancer, task, metric}) csv += csv_field(text) + ",";
      csv += greater_is_better;
      csv += "," + digits(figure.moments.mean) + "," + digits(figure.moments.sd) + "," + std::to_string(figure.moments.count);
      for (const double value : {figure.by_seeds.mean, figure.by_seeds.p, figure.by_rows.low, figure.by_rows.high, figure.by_rows.p})
        csv += "," + digits(value);
      csv += "\n";
    });
  return csv;
}

std::string cells_csv(const Summary& summary) {
  std::string csv = "model,adjuster,loss,balancer,seed,task,metric,value\n";
  for (const KindSummary& of : summary.kinds)
    visit_figures(summary, of, [&](const std::string& task, const std::string& metric, const char*, const Figure& figure) {
      const bool has_seed = !of.kind.is_bound() || task.empty();  // a gain is over the single-task models of a seed
      for (size_t s = 0; s < (has_seed ? figure.by_seed.size() : 1); ++s) {
        for (const std::string& text : {of.kind.model, of.kind.adjuster, of.kind.loss, of.kind.balancer}) csv += csv_field(text) + ",";
        csv += (has_seed ? std::to_string(s + 1) : "") + "," + csv_field(task) + "," + csv_field(metric) + "," + digits(figure.by_seed[s]) + "\n";
      }
    });
  return csv;
}

nlohmann::ordered_json to_json(const Summary& summary) {
  nlohmann::ordered_json kinds = nlohmann::ordered_json::array();
  const auto value = [](double number) { return std::isfinite(number) ? nlohmann::ordered_json(number) : nlohmann::ordered_json(); };
  for (const KindSummary& of : summary.kinds) {
    nlohmann::ordered_json figures = nlohmann::ordered_json::array();
    visit_figures(summary, of, [&](const std::string& task, const std::string& metric, const std::string& greater_is_better, const Figure& figure) {
      nlohmann::ordered_json by_seed = nlohmann::ordered_json::array();
      for (const double one : figure.by_seed) by_seed.push_back(value(one));
      figures.push_back({{"task", task},
                         {"metric", metric},
                         {"greater_is_better", greater_is_better.empty() ? nlohmann::ordered_json() : nlohmann::ordered_json(greater_is_better == "true")},
                         {"mean", value(figure.moments.mean)},
                         {"sd", value(figure.moments.sd)},
                         {"by_seed", by_seed},
                         {"difference", value(figure.by_seeds.mean)},
                         {"p_seeds", value(figure.by_seeds.p)},
                         {"low", value(figure.by_rows.low)},
                         {"high", value(figure.by_rows.high)},
                         {"p_rows", value(figure.by_rows.p)}});
    });
    nlohmann::ordered_json kind = {
        {"model", of.kind.model}, {"adjuster", of.kind.adjuster}, {"loss", of.kind.loss}, {"balancer", of.kind.balancer}, {"figures", figures}};
    if (!of.kind.is_bound())
      kind["rates"] = {{"row-lr", value(of.rates.row_lr)},
                       {"dense-lr", value(of.rates.dense_lr)},
                       {"weight-decay", value(of.rates.weight_decay)},
                       {"dropout", value(of.rates.dropout)}};
    kinds.push_back(std::move(kind));
  }
  return kinds;
}

}  // namespace compare
