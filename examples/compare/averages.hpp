// SPDX-License-Identifier: Apache-2.0
/// @file averages.hpp
/// @brief The model-free averages: what is predicted from the training rows' means alone, which a network has to beat.
#pragma once

#include <examples/htlnet/data/dataset.hpp>

#include <htl/metrics/auc.hpp>
#include <htl/metrics/regression_error.hpp>
#include <htl/task/task_outputs.hpp>

#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

namespace compare {

/// @brief The fields that are averaged over, in their order: tab, video_id, user_id where the data have all three; else every field.
inline std::vector<int64_t> averaged_fields(const htl::FeatureMap& features) {
  std::vector<int64_t> all, known;
  const std::vector<std::string> names = features.names();
  for (size_t f = 0; f < names.size(); ++f) all.push_back(static_cast<int64_t>(f));
  for (const char* name : {"tab", "video_id", "user_id"}) {
    const auto found = std::find(names.begin(), names.end(), name);
    if (found != names.end()) known.push_back(found - names.begin());
  }
  return known.size() == 3 ? known : all;
}

namespace detail {

/// The id of a row's field, the first of several; 0 for none.
inline int64_t id_of(const htl::FieldBatch& fields, const at::Tensor& ids, int64_t row, int64_t field) {
  const int64_t* const data = ids.const_data_ptr<int64_t>();
  if (fields.is_short()) return data[row * fields.fields + field];
  const int64_t* const offsets = fields.offsets.const_data_ptr<int64_t>() + row * fields.fields + field;
  return offsets[1] > offsets[0] ? data[offsets[0]] : 0;
}

/// The ids of some rows' fields, [n · fields].
struct Ids {
  explicit Ids(const htl::TableData& rows)
      : fields(rows.all().fields), values(fields.ids.to(at::kLong).contiguous()), count(static_cast<size_t>(rows.rows())) {}
  size_t of(size_t row, int64_t field) const { return static_cast<size_t>(id_of(fields, values, static_cast<int64_t>(row), field)); }
  const htl::FieldBatch& fields;
  at::Tensor values;
  size_t count;
};

/// A task's observed training rows.
struct ObservedRows {
  std::vector<size_t> rows;
  std::vector<double> labels;
};

/// The predictions of one binary task or regression for some rows.
inline at::Tensor averages_of(const ObservedRows& train, const Ids& train_ids, const Ids& ids, const std::vector<int64_t>& fields,
                              const std::vector<int64_t>& sizes, bool binary, double strength) {
  const auto count = static_cast<double>(train.rows.size());
  double mean = 0.0;
  for (const double label : train.labels) mean += label / count;
  if (binary) mean = std::clamp(mean, 1e-6, 1.0 - 1e-6);
  const auto logit = [](double p) { return std::log(p / (1.0 - p)); };
  std::vector<double> left = train.labels;  // what the fields before have not explained; of binary tasks the labels themselves
  if (!binary)
    for (double& value : left) value -= mean;
  const at::Tensor result = at::full({static_cast<int64_t>(ids.count)}, binary ? logit(mean) : mean, at::kDouble);
  double* const guesses = result.mutable_data_ptr<double>();
  for (const int64_t field : fields) {
    const auto size = static_cast<size_t>(sizes[static_cast<size_t>(field)]);
    std::vector<double> effect(size, binary ? strength * mean : 0.0), number(size, strength);
    for (size_t i = 0; i < left.size(); ++i) {
      const size_t id = train_ids.of(train.rows[i], field);
      effect[id] += left[i];
      number[id] += 1.0;
    }
    for (size_t id = 0; id < size; ++id)
      effect[id] = binary ? logit(std::clamp(effect[id] / number[id], 1e-6, 1.0 - 1e-6)) - logit(mean) : effect[id] / number[id];
    for (size_t i = 0; !binary && i < left.size(); ++i) left[i] -= effect[train_ids.of(train.rows[i], field)];
    for (size_t r = 0; r < ids.count; ++r)
      if (const size_t id = ids.of(r, field); id < size) guesses[r] += effect[id];
  }
  if (binary) return result.sigmoid().clamp(1e-6, 1.0 - 1e-6);
  const auto [least, greatest] = std::minmax_element(train.labels.begin(), train.labels.end());
  return result.clamp(*least, *greatest);
}

}  // namespace detail

/// @brief Predictions of the test rows, [n] in float64.
///
/// A regression: the training mean, and for one field after the other the smoothed mean of what is left, by its id. A binary task: the sum over fields of the
/// log odds of the smoothed means, each less those of the training mean. A multiclass task: its training shares [n, K]. A mean over n rows counts
/// n / (n + strength); the strength, of 2, 5, 10, … 160, is the best for each task on the validation rows (AUC, RMSE), 20 without any.
inline htl::Predictions averages(const htlnet::Dataset& data) {
  const std::vector<int64_t> fields = averaged_fields(data.features), sizes = data.features.sizes();
  const detail::Ids train(data.train), valid(data.valid), test(data.test);
  htl::Predictions predictions;
  for (int64_t t = 0; t < data.tasks.size(); ++t) {
    const htl::TaskSpec& task = data.tasks[t];
    const at::Tensor label = data.train.labels()[task.name()].value.to(at::kDouble).contiguous(), mask = data.tasks.observed(t, data.train.labels());
    const at::Tensor seen = mask.defined() ? mask.contiguous() : at::Tensor();
    detail::ObservedRows observed;
    for (size_t r = 0; r < train.count; ++r) {
      if (seen.defined() && !seen.const_data_ptr<bool>()[r]) continue;
      observed.rows.push_back(r);
      observed.labels.push_back(label.const_data_ptr<double>()[r]);
    }
    HTL_CHECK(!observed.rows.empty(), "compare: task \"", task.name(), "\" has no label in any of the ", train.count, " training rows; leave the task out");
    if (task.kind() == htl::TaskKind::multiclass) {
      const at::Tensor shares = at::zeros({task.classes()}, at::kDouble);
      for (const double value : observed.labels)
        shares.mutable_data_ptr<double>()[static_cast<int64_t>(value)] += 1.0 / static_cast<double>(observed.labels.size());
      predictions.set(task.name(), shares.clamp(1e-6).expand({static_cast<int64_t>(test.count), task.classes()}).contiguous());
      continue;
    }
    const bool binary = task.kind() == htl::TaskKind::binary;
    double strength = 20.0, best = -std::numeric_limits<double>::infinity();
    for (const double tried : {2.0, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0}) {
      if (valid.count == 0) break;
      htl::Label wanted = data.valid.labels()[task.name()];
      wanted.mask = data.tasks.observed(t, data.valid.labels());
      const at::Tensor guess = detail::averages_of(observed, train, valid, fields, sizes, binary, tried);
      htl::Auc auc;
      htl::RegressionError error;
      binary ? auc.add(guess, wanted) : error.add(guess, wanted);
      const double value = binary ? auc.value() : -error.rmse();
      if (!(value > best)) continue;
      best = value;
      strength = tried;
    }
    predictions.set(task.name(), detail::averages_of(observed, train, test, fields, sizes, binary, strength));
  }
  return predictions;
}

}  // namespace compare
