// SPDX-License-Identifier: Apache-2.0
// Times whole training steps of the reference model on rows of KuaiRand's shape, and prints one JSON line.
//   step --rows 36000 --batch 1024 --steps 200 --warmup 20 --matrix auto|mkl|onednn --mode adjusted|plain|both [--threads 2] [--clip 1]
//        [--precision fp32|tf32|bf16] [--device cpu|cuda] [--adjuster NAME[:option=value,…]] [--model htlnet|shared_embedding] [--tasks N]
// `both` alternates adjusted and plain steps of two models in one run, and prints the ratio of their medians; `parts` prints where an adjusted step's time
// goes.
#include "htlnet/machine.hpp"
#include "htlnet/trainer.hpp"
#include "workload.hpp"

#include <torch/types.h>

#include <ATen/Parallel.h>
#include <CLI/CLI.hpp>

#include <chrono>
#include <iostream>

namespace {

using side_by_side::kuairand_shape;
using side_by_side::median;
using side_by_side::Products;
using side_by_side::random_rows;
using side_by_side::Vocabulary;

/// Every matrix product of one step of the default model: towers 128-64-32 on D columns, fusions of 128 and 10.
Products products_of_the_default_model(int64_t rows, int64_t width) {
  Products products;
  const std::vector<int64_t> hidden = {128, 64, 32, 1};
  for (int64_t t = 0; t < 3; ++t) {
    int64_t in = width;
    for (const int64_t out : hidden) {
      products.add(rows, in, out, /*input_gradient=*/true);
      if (t > 0 && in == width) products.add(rows, 138, out, /*input_gradient=*/t > 1);  // what the fusions pass on, their maps composed with the layer
      in = out;
    }
  }
  for (int64_t source = 0; source < 2; ++source) products.add(rows, 128, 128, /*input_gradient=*/false);  // the attention's form
  return products;
}

/// Medians of the parts of an adjusted step, and of its bare matrix products.
nlohmann::ordered_json time_parts(const Vocabulary& vocabulary, const htl::TableData& data, const htl::TaskSet& tasks, int64_t batch_size, int64_t steps,
                                  int64_t warmup) {
  htlnet::HtlNet net(vocabulary, 0, tasks, htlnet::ModelOptions{});
  net->train();
  htl::HybridLoss loss(tasks);
  htl::RowTables tables(net->embedding);
  htl::RowAdagrad rows(tables, {.lr = 0.05});
  htl::FusedAdam dense(htl::dense_parameters(*net), {.lr = 1e-3});
  Products products = products_of_the_default_model(batch_size, net->embedding->width());
  std::vector<std::pair<std::string, std::vector<double>>> parts = {{"lookup", {}},        {"forward", {}},         {"losses", {}},  {"backward", {}},
                                                                    {"row_optimizer", {}}, {"dense_optimizer", {}}, {"products", {}}};
  htl::BatchLoader loader(data, {.batch_size = batch_size, .shuffle = true});
  int64_t done = 0;
  while (done < warmup + steps) {
    for (const htl::Batch& batch : loader) {
      size_t part = 0;
      const auto timed = [&](auto&& work) {
        const auto start = std::chrono::steady_clock::now();
        auto result = work();
        if (done >= warmup) parts[part].second.push_back(std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count());
        ++part;
        return result;
      };
      dense.zero_grad();
      const auto views = timed([&] { return net->adjuster->split(net->embedding->lookup(batch)); });
      const auto outputs = timed([&] { return net->graph->forward(views); });
      const auto losses = timed([&] { return loss(outputs, batch.labels); });
      timed([&] { return htl::backward(losses, net->adjuster); });
      timed([&] { return rows.step(), 0; });
      timed([&] { return dense.step(), 0; });
      timed([&] { return products.run(), 0; });
      if (++done == warmup + steps) break;
    }
  }
  nlohmann::ordered_json line = {
      {"program", "htl"}, {"rows_of_the_table", net->embedding->weight.size(0)}, {"batch", batch_size}, {"threads", torch::get_num_threads()}};
  double all = 0.0;
  for (const auto& [name, values] : parts) {
    line["ms_" + name] = median(values);
    if (name != "products") all += median(values);
  }
  line["ms_all"] = all;
  line["gflops_of_products"] = products.flop() / median(parts.back().second) / 1e6;
  line["products_share"] = median(parts.back().second) / all;
  return line;
}

}  // namespace

int main(int argc, char** argv) {
  int64_t rows = 36'000, batch_size = 1024, steps = 200, warmup = 20, threads = 2, task_count = 3;
  double clip = 0.0;
  std::string matrix = "auto", mode = "adjusted", precision = "fp32", device = "cpu", adjuster = "core_task", model = "htlnet";
  CLI::App app("Times whole training steps");
  app.add_option("--rows", rows);
  app.add_option("--batch", batch_size);
  app.add_option("--steps", steps);
  app.add_option("--warmup", warmup);
  app.add_option("--matrix", matrix);
  app.add_option("--mode", mode)->check(CLI::IsMember({"adjusted", "plain", "both", "parts"}));
  app.add_option("--threads", threads);
  app.add_option("--adjuster", adjuster, "The method of an adjusted step, as htlnet train --adjuster takes it");
  app.add_option("--tasks", task_count, "How many tasks: two binary ones and the core, and more binary ones between them")->check(CLI::Range(3, 64));
  app.add_option("--model", model, "htlnet, or shared_embedding: towers without transfer")->check(CLI::IsMember({"htlnet", "shared_embedding"}));
  app.add_option("--clip", clip, "Largest norm of the whole gradient; 0 = no clipping")->check(CLI::NonNegativeNumber);
  app.add_option("--precision", precision)->check(CLI::IsMember({"fp32", "tf32", "bf16"}));
  app.add_option("--device", device)->check(CLI::IsMember({"cpu", "cuda"}));
  CLI11_PARSE(app, argc, argv);
  if (mode == "parts" && (clip > 0.0 || precision != "fp32" || device != "cpu")) {
    std::cerr << "side_by_side_step: --mode parts times a step in fp32 on the CPU without clipping; leave out --clip, --precision and --device\n";
    return 1;
  }
  htlnet::keep_freed_memory();
  torch::set_num_threads(static_cast<int>(threads));
  torch::manual_seed(1);
  if (precision == "tf32") at::globalContext().setAllowTF32CuBLAS(true);
  const std::string backend = device == "cpu" ? htlnet::choose_matrix_backend(matrix).name : "cublas";

  const Vocabulary vocabulary = kuairand_shape(rows);
  const int64_t batches = 16;
  htl::TableData data = random_rows(vocabulary, batches * batch_size, task_count - 3);
  if (device == "cuda") data = data.to(torch::kCUDA);
  std::vector<htl::TaskSpec> specs = {htl::binary("click"), htl::binary("long_view")};
  for (int64_t t = 3; t < task_count; ++t) specs.push_back(htl::binary("more" + std::to_string(t - 3)));
  specs.push_back(htl::regression("watch_time").core().transform(htl::z_score()));
  const htl::TaskSet tasks = htl::TaskSet(specs).fitted(data.labels());
  std::vector<std::unique_ptr<htlnet::Trainer>> trainers;
  std::vector<std::string> names;
  for (const std::string which : {"adjusted", "plain"}) {
    if (mode != "both" && mode != which) continue;
    htlnet::Options options;
    options.model.model = model;
    options.model.adjuster = which == "adjusted" ? adjuster : "sum";
    options.train.precision = precision;
    options.train.clip_norm = clip;
    options.train.average = "none";  // as the programs that it is compared with
    htlnet::HtlNet net(vocabulary, 0, tasks, options.model);
    net->to(torch::Device(device));
    net->train();
    trainers.push_back(std::make_unique<htlnet::Trainer>(std::move(net), tasks, options, batches));
    names.push_back(which);
  }
  if (mode == "parts") {
    std::cout << time_parts(vocabulary, data, tasks, batch_size, steps, warmup).dump() << "\n";
    return 0;
  }
  std::vector<std::vector<double>> milliseconds(trainers.size());
  htl::BatchLoader loader(data, {.batch_size = batch_size, .shuffle = true});
  int64_t done = 0;
  while (done < warmup + steps) {
    for (const htl::Batch& batch : loader) {
      for (size_t i = 0; i < trainers.size(); ++i) {
        const auto start = std::chrono::steady_clock::now();
        trainers[i]->set_rates();
        const auto result = trainers[i]->step(batch);
        if (device == "cuda") result.losses.cpu();
        const double elapsed = std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
        if (done >= warmup) milliseconds[i].push_back(elapsed);
      }
      if (++done == warmup + steps) break;
    }
  }
  nlohmann::json line = {{"program", "htl"}, {"rows", rows},       {"batch", batch_size}, {"matrix", backend},
                         {"steps", steps},   {"threads", threads}, {"clip", clip},        {"precision", precision}};
  line["ms_per_step"] = median(milliseconds.front());
  if (trainers.size() == 1 && device == "cpu") {
    const double table = static_cast<double>(rows) * 10 * 4, state = static_cast<double>(rows) * 4, ids = static_cast<double>(data.rows() * 43) * 4;
    line["peak_memory_mb"] = htlnet::peak_memory_mb();
    line["table_state_and_ids_mb"] = (table + state + ids) / 1048576.0;
  }
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
