// SPDX-License-Identifier: Apache-2.0
/// @file inputs.hpp
/// @brief What all models of a grid read: the fields, histories that --attend weighs for a target, and numbers as --numbers-by says.
#pragma once

#include "options.hpp"

#include <examples/htlnet/data/dataset.hpp>
#include <examples/models/inputs.hpp>

#include <utility>

namespace compare {

/// @brief The models' input. A history whose vocabulary is its target's reads the target's rows.
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
    inputs.histories.push_back({of.history, of.target, from.vocabulary == to.vocabulary});
  }
  HTL_CHECK(options.numbers_by == "as_is" || numbers > 0, "compare: --numbers-by ", options.numbers_by,
            " embeds numeric features, and the data have none; leave it out, or give --numbers-as numbers");
  if (options.numbers_by == "periodic") inputs.periodic = htl::PeriodicEmbeddingOptions(numbers, 8).dim(dim);
  if (options.numbers_by == "piecewise") inputs.piecewise = htl::PiecewiseLinearEmbeddingOptions(htl::quantile_edges(data.train.all().numeric, 16)).dim(dim);
  if (options.numbers_by == "as_is") inputs.numeric_width = numbers;
  return inputs;
}

}  // namespace compare
