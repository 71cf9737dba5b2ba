// SPDX-License-Identifier: Apache-2.0
/// @file inputs.hpp
/// @brief What all models of a grid read: the fields, histories that --attend weighs for a target, and numbers as --numbers-by says.
#pragma once

#include "options.hpp"

#include <examples/htlnet/data/dataset.hpp>
#include <examples/models/inputs.hpp>

#include <ATen/ops/tensor.h>

#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace compare {

namespace detail {

/// Which of the target's ids each id of a history is, [ids of the history]; undefined where most of its values are not in the target's vocabulary.
inline at::Tensor target_ids_of(const htl::FeatureMap::Field& history, const htl::FeatureMap::Field& target) {
  std::unordered_map<std::string_view, int64_t> known;
  for (size_t i = 0; i < target.vocabulary.size(); ++i) known[target.vocabulary[i]] = static_cast<int64_t>(i) + 1;
  std::vector<int64_t> ids{0};
  size_t found = 0;
  for (const std::string& text : history.vocabulary) {
    const auto at = known.find(text);
    ids.push_back(at == known.end() ? 0 : at->second);
    found += at == known.end() ? 0 : 1;
  }
  return 2 * found > history.vocabulary.size() ? at::tensor(ids, at::kLong) : at::Tensor();
}

}  // namespace detail

/// @brief The models' input. A history most of whose values are in its target's vocabulary reads the target's rows.
/// @throws c10::IndexError for names that are none; c10::ValueError for a history that has one value a row, or numbers that are to be embedded and are not
/// there
inline models::InputOptions inputs_of(const CompareOptions& options, const htlnet::Dataset& data) {
  const htl::FeatureMap& features = data.features;
  const int64_t dim = options.base.model.embedding_dim, numbers = static_cast<int64_t>(features.numeric().size());
  models::InputOptions inputs(htl::FieldEmbeddingOptions(features, dim).unknown_ids(htl::UnknownIds::map_to_zero).initial_sd(options.base.model.embedding_sd));
  for (const auto& [history, target] : options.attend) {
    const models::AttendedHistory of{.history = features.index(history), .target = features.index(target)};
    const htl::FeatureMap::Field &from = features.fields()[static_cast<size_t>(of.history)], &to = features.fields()[static_cast<size_t>(of.target)];
    HTL_CHECK(from.kind == htl::FieldKind::multi_valued && to.kind == htl::FieldKind::categorical,
              "compare: --attend expected a multi-valued field and a categorical one, as in watch_seq=video_id, got \"", history, "\", which is ",
              htl::to_string(from.kind), ", and \"", target, "\", which is ", htl::to_string(to.kind));
    const at::Tensor ids = detail::target_ids_of(from, to);
    inputs.histories.push_back({of.history, of.target, ids.defined(), ids});
  }
  HTL_CHECK(options.numbers_by == "as_is" || numbers > 0, "compare: --numbers-by ", options.numbers_by,
            " embeds numeric features, and the data have none; leave it out, or give --numbers-as numbers");
  const at::Tensor columns = data.train.all().numeric;
  for (int64_t n = 0; options.numbers_by != "as_is" && n < numbers; ++n)
    HTL_CHECK(columns.select(1, n).min().item<double>() < columns.select(1, n).max().item<double>(), "compare: --numbers-by ", options.numbers_by,
              " can't embed the feature \"", features.numeric()[static_cast<size_t>(n)].name, "\", which is one number in all training rows; leave it out");
  if (options.numbers_by == "periodic") {
    inputs.periodic = htl::PeriodicEmbeddingOptions(numbers, 8).dim(dim);
    inputs.center = columns.mean(0, /*keepdim=*/false, at::kDouble).to(columns.scalar_type());
    inputs.spread = columns.sub(inputs.center).square().mean(0, /*keepdim=*/false, at::kDouble).sqrt().to(columns.scalar_type());
  }
  if (options.numbers_by == "piecewise") inputs.piecewise = htl::PiecewiseLinearEmbeddingOptions(htl::quantile_edges(columns, 16)).dim(dim);
  if (options.numbers_by == "as_is") inputs.numeric_width = numbers;
  return inputs;
}

}  // namespace compare
