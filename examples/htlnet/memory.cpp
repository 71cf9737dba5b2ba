// SPDX-License-Identifier: Apache-2.0
#include "memory.hpp"

#include "machine.hpp"

#include <cstdio>
#include <string>

namespace htlnet {
namespace {

constexpr double float_bytes = 4.0;

std::string gigabytes(double bytes) {
  char text[32];
  std::snprintf(text, sizeof(text), bytes < 1e15 ? "%.1f GB" : "%.3g GB", bytes / 1e9);
  return text;
}

}  // namespace

void check_memory_of_rows(const Options& options) {
  if (options.data.dataset != "synthetic") return;
  const double row = 8 * 4 + 3 * 4 + 4 * 4;  // ids, labels, groups
  const double needed = static_cast<double>(options.data.rows) * row;
  const double free = available_memory();
  HTL_CHECK(needed < free, "htlnet: --rows ", options.data.rows, " needs about ", gigabytes(needed), ", and ", gigabytes(free),
            " of memory are free; lower --rows");
}

void check_memory(const Options& options, const htl::FeatureMap& features, const htl::TaskSet& tasks) {
  if (options.train.device != "cpu") return;
  const ModelOptions& model = options.model;
  double rows = 0.0, dense = 0.0, hidden = 0.0, before = 0.0;
  for (const int64_t size : features.sizes()) rows += static_cast<double>(size);
  const double dim = static_cast<double>(model.embedding_dim), view = static_cast<double>(features.size()) * dim,
               tasks_count = static_cast<double>(tasks.size());
  const bool averaged = options.train.average != "none";
  // weights, average with its sample numbers, optimizer, and where a row is in the batch
  const double state = options.train.row_optimizer == "row_adagrad" ? 1.0 : options.train.row_optimizer == "adagrad" ? dim : 2.0 * dim;
  const double tables = rows * (dim + (averaged ? dim + 1.0 : 0.0) + state + 1.0) * float_bytes;
  for (const int64_t width : model.tower) {  // a tower, and what flows into it from one before
    const double w = static_cast<double>(width);
    dense += (before > 0.0 ? before : view + static_cast<double>(features.numeric().size()) + w + static_cast<double>(model.label_dim)) * w;
    if (before == 0.0) dense += 3.0 * w * w;
    hidden += w;
    before = w;
  }
  const double towers = tasks_count * dense * (averaged ? 5.0 : 4.0) * float_bytes;  // weight, gradient, two moments, average
  const double batch = static_cast<double>(options.train.batch_size) * tasks_count * 2.0 * (view + hidden) * float_bytes;
  const double free = available_memory(), needed = tables + towers + batch;
  HTL_CHECK(needed < free, "htlnet: this configuration needs about ", gigabytes(needed), " of memory, and ", gigabytes(free), " are free: ", gigabytes(tables),
            " for ", static_cast<int64_t>(rows), " embedding rows of --embedding-dim ", model.embedding_dim, " with their --row-optimizer ",
            options.train.row_optimizer, " and --average ", options.train.average, ", ", gigabytes(towers), " for the towers with their optimizer, ",
            gigabytes(batch), " for a batch of --batch-size ", options.train.batch_size, "; lower --embedding-dim, --tower or --batch-size, raise --min-count",
            averaged ? ", or give --average none" : "");
}

}  // namespace htlnet
