// SPDX-License-Identifier: Apache-2.0
// Times whole training steps of the reference model on rows of KuaiRand's shape, and prints one JSON line.
//   step --rows 36000 --batch 1024 --steps 200 --warmup 20 --matrix auto|mkl|onednn --mode adjusted|plain|both [--threads 2] [--precision fp32|bf16]
// `both` alternates adjusted and plain steps of two models in one run, and prints the ratio of their medians.
#include "htlnet/machine.hpp"
#include "htlnet/trainer.hpp"

#include <torch/types.h>

#include <ATen/Parallel.h>
#include <CLI/CLI.hpp>

#include <algorithm>
#include <chrono>
#include <iostream>

namespace {

struct Vocabulary {
  std::vector<int64_t> field_sizes;
  std::vector<int64_t> sizes() const { return field_sizes; }
  std::vector<std::string> names() const {
    std::vector<std::string> result;
    for (size_t f = 0; f < field_sizes.size(); ++f) result.push_back("field" + std::to_string(f));
    return result;
  }
};

/// 43 fields: three quarters of the rows are users, a fifth items, the rest 41 fields of a few to a few hundred values.
Vocabulary kuairand_shape(int64_t rows) {
  Vocabulary vocabulary{{rows * 3 / 4, rows / 5}};
  const std::vector<int64_t> small = {2, 3, 3, 7, 8, 8, 9, 24, 2, 7, 50, 100, 340, 7, 2, 3, 5, 32, 32, 32};
  for (size_t f = 0; f < 41; ++f) vocabulary.field_sizes.push_back(small[f % small.size()]);
  return vocabulary;
}

htl::TableData random_rows(const Vocabulary& vocabulary, int64_t count) {
  std::vector<torch::Tensor> columns;
  for (const int64_t size : vocabulary.field_sizes) {
    const torch::Tensor skewed = (torch::rand({count}).pow(size > 1000 ? 2.0 : 1.0) * static_cast<double>(size)).to(torch::kInt);
    columns.push_back(skewed.clamp_max(size - 1));
  }
  const torch::Tensor click = (torch::rand({count}) < 0.44).to(torch::kFloat), view = click * (torch::rand({count}) < 0.7).to(torch::kFloat);
  htl::Labels labels;
  labels.set("click", {click}).set("long_view", {view}).set("watch_time", {click * torch::randn({count}).exp() * 30.0});
  return htl::TableData({htl::FieldBatch::of(torch::stack(columns, 1).contiguous()), {}, labels});
}

double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2), values.end());
  return values[values.size() / 2];
}

}  // namespace

int main(int argc, char** argv) {
  int64_t rows = 36'000, batch_size = 1024, steps = 200, warmup = 20, threads = 2;
  std::string matrix = "auto", mode = "adjusted", precision = "fp32", device = "cpu";
  CLI::App app("Times whole training steps");
  app.add_option("--rows", rows);
  app.add_option("--batch", batch_size);
  app.add_option("--steps", steps);
  app.add_option("--warmup", warmup);
  app.add_option("--matrix", matrix);
  app.add_option("--mode", mode)->check(CLI::IsMember({"adjusted", "plain", "both"}));
  app.add_option("--threads", threads);
  app.add_option("--precision", precision)->check(CLI::IsMember({"fp32", "tf32", "bf16"}));
  app.add_option("--device", device)->check(CLI::IsMember({"cpu", "cuda"}));
  CLI11_PARSE(app, argc, argv);
  torch::set_num_threads(static_cast<int>(threads));
  torch::manual_seed(1);
  if (precision == "tf32") at::globalContext().setAllowTF32CuBLAS(true);
  const std::string backend = device == "cpu" ? htlnet::choose_matrix_backend(matrix).name : "cublas";

  const Vocabulary vocabulary = kuairand_shape(rows);
  const int64_t batches = 16;
  htl::TableData data = random_rows(vocabulary, batches * batch_size);
  if (device == "cuda") data = data.to(torch::kCUDA);
  const htl::TaskSet tasks =
      htl::TaskSet{htl::binary("click"), htl::binary("long_view"), htl::regression("watch_time").core().transform(htl::z_score())}.fitted(data.labels());
  std::vector<std::unique_ptr<htlnet::Trainer>> trainers;
  std::vector<std::string> names;
  for (const std::string which : {"adjusted", "plain"}) {
    if (mode != "both" && mode != which) continue;
    htlnet::Options options;
    options.model.adjuster = which == "adjusted" ? "core_task" : "sum";
    options.train.precision = precision;
    htlnet::HtlNet net(vocabulary, 0, tasks, options.model);
    net->to(torch::Device(device));
    net->train();
    trainers.push_back(std::make_unique<htlnet::Trainer>(std::move(net), tasks, options, batches));
    names.push_back(which);
  }
  std::vector<std::vector<double>> milliseconds(trainers.size());
  htl::BatchLoader loader(data, {.batch_size = batch_size, .shuffle = true});
  int64_t done = 0;
  while (done < warmup + steps) {
    for (const htl::Batch& batch : loader) {
      for (size_t i = 0; i < trainers.size(); ++i) {
        const auto start = std::chrono::steady_clock::now();
        const auto result = trainers[i]->step(batch);
        if (device == "cuda") result.losses.cpu();
        const double elapsed = std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
        if (done >= warmup) milliseconds[i].push_back(elapsed);
      }
      if (++done == warmup + steps) break;
    }
  }
  nlohmann::json line = {{"program", "htl"}, {"rows", rows},       {"batch", batch_size},   {"matrix", backend},
                         {"steps", steps},   {"threads", threads}, {"precision", precision}};
  line["ms_per_step"] = median(milliseconds.front());
  line["samples_per_second"] = static_cast<double>(batch_size) / median(milliseconds.front()) * 1e3;
  for (size_t i = 0; i < names.size(); ++i) line["ms_" + names[i]] = median(milliseconds[i]);
  if (mode == "both") {
    std::vector<double> ratios;
    for (size_t s = 0; s < milliseconds[0].size(); ++s) ratios.push_back(milliseconds[0][s] / milliseconds[1][s]);
    line["adjusted_over_plain"] = median(milliseconds[0]) / median(milliseconds[1]);
    line["median_of_pairwise_ratios"] = median(ratios);
  }
  std::cout << line.dump() << "\n";
}
