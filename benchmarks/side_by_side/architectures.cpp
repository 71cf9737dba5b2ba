// SPDX-License-Identifier: Apache-2.0
// A training step of an architecture that torch-rechub has too; architectures.py runs it beside that one. Prints a JSON line: the median step, its parts, and
// the bare matrix products of the model.
//   architectures --model shared_bottom|mmoe|ple|aitm|esmm --rows 36000 --batch 1024 --steps 100 --warmup 10 --threads 2 --matrix auto|mkl|onednn
//                 [--rows-by lazy_adam|adagrad] [--loader] [--cpu-time] [--turns]
// Shared bottom, MMoE and PLE have two binary tasks and a regression, AITM and ESMM a click and what follows it. --loader takes each batch from an
// htl::BatchLoader, within the step's time, instead of from memory. With --turns it does the steps again for every line that it reads.
#include "workload.hpp"

#include <htlnet/machine.hpp>
#include <models/models.hpp>

#include <htl/data/batch_loader.hpp>
#include <htl/loss/hybrid_loss.hpp>
#include <htl/optim/dense_parameters.hpp>
#include <htl/optim/fused_adam.hpp>
#include <htl/optim/lazy_adam.hpp>
#include <htl/optim/row_adagrad.hpp>

#include <ATen/Parallel.h>
#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include <chrono>
#include <ctime>
#include <iostream>
#include <map>
#include <memory>
#include <string>
#include <variant>
#include <vector>

namespace {

using side_by_side::median;

/// Milliseconds of a clock: the wall's, or what this process has had of the processors.
double now(bool of_process) {
  if (of_process) return 1e3 * static_cast<double>(std::clock()) / CLOCKS_PER_SEC;
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

htl::TaskSet tasks_of(const std::string& model, const htl::Labels& labels) {
  const htl::TaskSet events = {htl::binary("click"), htl::binary("long_view").core()};
  if (model == "aitm") return events;  // without its calibrator, which torch-rechub's trainer does not have
  if (model == "esmm") return models::all_models()[model].tasks(events);
  return htl::TaskSet({htl::binary("click"), htl::binary("long_view"), htl::regression("watch_time").core().transform(htl::z_score())}).fitted(labels);
}

models::ModelOptions options_of(const std::string& model, const htl::TaskSet& tasks, const side_by_side::Vocabulary& vocabulary) {
  models::ModelOptions options{tasks, htl::FieldEmbeddingOptions(vocabulary, 10)};
  if (model == "ple") options.trunk = {128, 128};  // torch-rechub's levels are of one width
  return options;
}

/// A model and its optimizers.
class Training {
 public:
  Training(const std::string& name, const htl::TaskSet& tasks, const side_by_side::Vocabulary& vocabulary, const std::string& rows_by)
      : model_(models::all_models()[name].make(options_of(name, tasks, vocabulary))),
        loss_(tasks),
        rows_(rows_by == "adagrad" ? Rows(htl::RowAdagrad(htl::RowTables(*model_))) : Rows(htl::LazyAdam(htl::RowTables(*model_)))),
        dense_(htl::dense_parameters(*model_)) {
    model_->train();
  }

  /// One step; `timed(part, work)` runs each part of it.
  template <class Timed>
  void step(const htl::Batch& batch, Timed&& timed) {
    htl::TaskOutputs outputs;
    htl::TaskLosses losses;
    dense_.zero_grad();
    timed("forward", [&] { outputs = model_->forward(batch); });
    timed("losses", [&] { losses = loss_(outputs, batch.labels); });
    timed("backward", [&] { model_->backward(losses); });
    timed("row_optimizer", [&] { std::visit([](auto& rows) { rows.step(); }, rows_); });
    timed("dense_optimizer", [&] { dense_.step(); });
  }

  /// The products of all weight matrices. Outputs of width 1 are no products here.
  side_by_side::Products products(int64_t rows) const {
    side_by_side::Products products;
    for (const at::Tensor& weight : matrices()) {
      const int64_t groups = weight.dim() == 3 ? weight.size(0) : 1, out = weight.size(-2), in = weight.size(-1);
      for (int64_t g = 0; g < groups && out > 1; ++g) products.add(rows, in, out, /*input_gradient=*/true);
    }
    return products;
  }
  /// The elements of all weight matrices, by which the other program sees that its model is of the same size.
  int64_t weights() const {
    int64_t count = 0;
    for (const at::Tensor& weight : matrices()) count += weight.numel();
    return count;
  }

 private:
  using Rows = std::variant<htl::RowAdagrad, htl::LazyAdam>;
  std::vector<at::Tensor> matrices() const {
    std::vector<at::Tensor> result;
    for (const auto& parameter : model_->named_parameters())
      if (parameter.key().ends_with("weight") && !parameter.value().is_same(model_->embedding->weight)) result.push_back(parameter.value());
    return result;
  }

  std::shared_ptr<models::Model> model_;
  htl::HybridLoss loss_;
  Rows rows_;
  htl::FusedAdam dense_;
};

}  // namespace

int main(int argc, char** argv) {
  int64_t rows = 36'000, batch_size = 1024, steps = 100, warmup = 10, threads = 2;
  std::string model = "mmoe", matrix = "auto", rows_by = "lazy_adam";
  bool from_loader = false, in_turns = false, cpu_time = false;
  CLI::App app("Times training steps of an architecture");
  app.add_option("--model", model)->check(CLI::IsMember({"shared_bottom", "mmoe", "ple", "aitm", "esmm"}));
  app.add_option("--rows", rows, "Of all tables together");
  app.add_option("--batch", batch_size);
  app.add_option("--steps", steps)->check(CLI::PositiveNumber);
  app.add_option("--warmup", warmup, "Steps before those, in each turn");
  app.add_option("--threads", threads);
  app.add_option("--matrix", matrix);
  app.add_option("--rows-by", rows_by, "The tables' optimizer")->check(CLI::IsMember({"lazy_adam", "adagrad"}));
  app.add_flag("--loader", from_loader, "Batches from an htl::BatchLoader");
  app.add_flag("--cpu-time", cpu_time, "The process's time on the processors instead of the wall's");
  app.add_flag("--turns", in_turns, "The steps again for every line of the standard input");
  CLI11_PARSE(app, argc, argv);
  htlnet::keep_freed_memory();
  at::set_num_threads(static_cast<int>(threads));
  at::manual_seed(1);
  const std::string backend = htlnet::choose_matrix_backend(matrix).name;

  constexpr int64_t count = 16;
  const side_by_side::Vocabulary vocabulary = side_by_side::kuairand_shape(rows);
  const htl::TableData data = side_by_side::random_rows(vocabulary, count * batch_size);
  Training training(model, tasks_of(model, data.labels()), vocabulary, rows_by);
  side_by_side::Products products = training.products(batch_size);
  htl::BatchLoader loader(data, {.batch_size = batch_size, .shuffle = true});
  std::vector<htl::Batch> batches;
  for (const htl::Batch& batch : loader) batches.push_back(batch);

  const auto turn = [&] {
    std::map<std::string, std::vector<double>> milliseconds;
    auto next = loader.begin();
    for (int64_t s = 0; s < warmup + steps; ++s) {
      const auto keep = [&](const std::string& part, double start) {
        if (s >= warmup) milliseconds[part].push_back(now(cpu_time) - start);
      };
      const double start = now(cpu_time);
      if (from_loader && s > 0 && ++next == loader.end()) next = loader.begin();
      training.step(from_loader ? *next : batches[static_cast<size_t>(s % count)], [&](const char* part, auto&& work) {
        const double begin = now(cpu_time);
        work();
        keep(part, begin);
      });
      keep("per_step", start);
    }
    for (int64_t s = 0; s < warmup + steps; ++s) {
      const double start = now(cpu_time);
      products.run();
      if (s >= warmup) milliseconds["products"].push_back(now(cpu_time) - start);
    }
    nlohmann::json line = {{"program", "htl"},   {"model", model},    {"rows", rows},       {"batch", batch_size},          {"steps", steps},
                           {"threads", threads}, {"matrix", backend}, {"rows_by", rows_by}, {"weights", training.weights()}};
    for (const auto& [part, values] : milliseconds) line["ms_" + part] = median(values);
    line["samples_per_second"] = static_cast<double>(batch_size) / line["ms_per_step"].get<double>() * 1e3;
    line["gflops_of_products"] = products.flop() / line["ms_products"].get<double>() / 1e6;
    line["products_share"] = line["ms_products"].get<double>() / line["ms_per_step"].get<double>();
    std::cout << line.dump() << std::endl;  // the other program waits for it
  };
  turn();
  for (std::string line; in_turns && std::getline(std::cin, line);) turn();
}
