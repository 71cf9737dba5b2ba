// SPDX-License-Identifier: Apache-2.0
// htlnet: trains, evaluates and feeds the HTLNet reference model. See htlnet --help.
#include "data/csv_dataset.hpp"
#include "data/kuairand.hpp"
#include "data/synthetic_dataset.hpp"
#include "machine.hpp"
#include "trainer.hpp"

#include <htl/io/atomic_file.hpp>
#include <htl/io/feature_map_json.hpp>
#include <htl/io/module_state.hpp>
#include <htl/io/task_set_json.hpp>

#include <torch/cuda.h>
#include <torch/types.h>
#include <torch/utils.h>

#include <filesystem>
#include <fstream>
#include <iostream>

namespace htlnet {
namespace {

SyntheticOptions synthetic_of(const Options& options) {
  return {.scenario = scenario_of(options.data.scenario), .rows = options.data.rows, .seed = options.train.seed};
}

/// @param features a finished run's map; nothing = fit one to the training rows
Dataset load(const Options& options, const htl::FeatureMap* features = nullptr) {
  const DataOptions& data = options.data;
  if (data.dataset == "synthetic") return synthetic_dataset(synthetic_of(options), data.min_count);
  HTL_CHECK(!data.directory.empty(), "htlnet: --dataset ", data.dataset, " expects --data, the folder with its files");
  if (data.dataset == "kuairand") {
    HTL_CHECK(features || (!data.train_dates.empty() && !data.valid_dates.empty()), "htlnet: --dataset kuairand expects --train-dates and --valid-dates");
    HTL_CHECK(!data.test_dates.empty(), "htlnet: --dataset kuairand expects --test-dates");
    return load_kuairand(data.directory, features ? "" : data.train_dates, features ? "" : data.valid_dates, data.test_dates,
                         {.min_count = data.min_count, .core_transform = options.model.core_label, .features = features});
  }
  HTL_CHECK(!data.schema.empty(), "htlnet: --dataset csv expects --schema, the TOML file that says what the columns are");
  return load_csv(data.directory, CsvSchema::read(data.schema), {.min_count = data.min_count, .features = features});
}

htl::TaskSet with_core_label(const htl::TaskSet& tasks, const std::string& transform) {
  std::vector<htl::TaskSpec> specs;
  for (const htl::TaskSpec& task : tasks)
    specs.push_back(task.is_core() && task.kind() == htl::TaskKind::regression ? task.transform(htl::label_transform(transform)) : task);
  return htl::TaskSet(std::move(specs));
}

int64_t numeric_width(const htl::FeatureMap& features) { return static_cast<int64_t>(features.numeric().size()); }

torch::Device device_of(const std::string& name) {
  HTL_CHECK(name != "cuda" || torch::cuda::is_available(),
            "htlnet: --device cuda expects a CUDA device and a LibTorch with CUDA, found none; use --device cpu");
  return torch::Device(name);
}

void prepare_process(const TrainOptions& options) {
  if (options.threads > 0) torch::set_num_threads(static_cast<int>(options.threads));
  torch::manual_seed(options.seed);
  HTL_CHECK(options.precision != "tf32" || options.device == "cuda", "htlnet: --precision tf32 is for --device cuda; use fp32 or bf16 on the CPU");
  if (options.precision == "tf32") at::globalContext().setAllowTF32CuBLAS(true);
}

/// What no model can beat: the generator's own expectations on the test rows.
nlohmann::json optimum(const Options& options, const Dataset& data, const htl::TaskSet& tasks, bool additive) {
  if (options.data.dataset != "synthetic") return {};
  const auto bounds = synthetic_bounds(options.data.rows);
  const htl::Predictions truth =
      additive ? synthetic_additive(synthetic_of(options), bounds[2], bounds[3]) : synthetic_oracle(synthetic_of(options), bounds[2], bounds[3]);
  htl::TaskMetrics metrics(tasks);
  metrics.add(truth, data.test.labels());
  nlohmann::json result;
  for (const auto& [task, values] : metrics.values())
    for (const auto& [metric, value] : values) result[task][metric] = value;
  return result;
}

/// (model − best additive) / (optimum − best additive), for each metric that ranks.
nlohmann::json closed_share(const nlohmann::json& model, const nlohmann::json& additive, const nlohmann::json& best) {
  nlohmann::json result;
  for (const auto& [task, values] : best.items())
    for (const std::string metric : {"auc", "log_loss", "nrmse", "spearman", "normalized_gini"})
      if (values.contains(metric) && values[metric].is_number() && additive[task][metric].is_number() && model[task][metric].is_number())
        result[task][metric] =
            (model[task][metric].get<double>() - additive[task][metric].get<double>()) / (values[metric].get<double>() - additive[task][metric].get<double>());
  return result;
}

int train(const Options& options) {
  prepare_process(options.train);
  const torch::Device device = device_of(options.train.device);
  const MatrixBackend backend = device.is_cpu() ? choose_matrix_backend(options.train.matrix_backend) : MatrixBackend{.name = "cublas"};
  Progress progress(options.train.quiet);
  const auto start = std::chrono::steady_clock::now();
  const Dataset data = load(options);
  const double load_seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  const htl::TaskSet tasks = with_core_label(data.tasks, options.model.core_label).fitted(data.train.labels());

  const std::filesystem::path run(options.output);
  std::error_code error;
  std::filesystem::create_directories(run, error);
  HTL_CHECK(!error, "htlnet: can't make the folder \"", options.output, "\": ", error.message());
  htl::write_atomically(run / "config.toml", options.config_text);
  htl::write_json(run / "features.json", htl::to_json(data.features));
  htl::write_json(run / "tasks.json", htl::to_json(tasks));
  std::ofstream metrics_file(run / "metrics.jsonl", std::ios::trunc);
  HTL_CHECK(metrics_file.good(), "htlnet: can't write \"", (run / "metrics.jsonl").string(), "\"");

  HtlNet net(data.features, numeric_width(data.features), tasks, options.model);
  int64_t parameters = 0;
  for (const torch::Tensor& parameter : net->parameters()) parameters += parameter.numel();
  net->to(device);
  progress.line("rows: " + std::to_string(data.train.rows()) + " train, " + std::to_string(data.valid.rows()) + " valid, " + std::to_string(data.test.rows()) +
                " test (read in " + std::to_string(load_seconds).substr(0, 4) + " s); " + std::to_string(parameters) + " parameters, " +
                std::to_string(net->embedding->weight.size(0)) + " embedding rows; matrix products: " + backend.name);
  const int64_t steps_per_epoch = std::max<int64_t>(1, (data.train.rows() + options.train.batch_size - 1) / options.train.batch_size);
  Trainer trainer(net, tasks, options, steps_per_epoch);
  const TrainingResult result = trainer.run(
      data.train, data.valid, data.groups,
      [&](const nlohmann::json& line) {
        metrics_file << line.dump() << '\n';
        metrics_file.flush();
      },
      [&] { htl::save_module(run / "model.safetensors", *net); });
  htl::load_module(run / "model.safetensors", *net);

  const nlohmann::json test = evaluate(net, tasks, data.test, data.groups, device);
  const nlohmann::json best = optimum(options, data, tasks, false);
  metrics_file << nlohmann::json{{"kind", "evaluation"}, {"split", "test"}, {"epoch", result.best_epoch}, {"step", result.steps}, {"metrics", test}}.dump()
               << '\n';
  HTL_CHECK(metrics_file.flush().good(), "htlnet: could not write all of \"", (run / "metrics.jsonl").string(), "\"; is the disk full?");
  nlohmann::ordered_json summary;
  summary["test"] = test;
  if (!best.empty()) {
    const nlohmann::json additive = optimum(options, data, tasks, true);
    summary["optimum"] = best;
    summary["best_additive"] = additive;
    summary["share_of_gap_closed"] = closed_share(test, additive, best);
  }
  summary["denominators"] = {{"nrmse", "std of the rows' labels"}, {"nmae", "mean of the rows' labels"}};
  summary["selected_by"] = result.selection.task + "." + result.selection.metric;
  summary["best_epoch"] = result.best_epoch;
  summary["best_validation_value"] = result.best_value;
  summary["epochs"] = result.epochs;
  summary["steps"] = result.steps;
  summary["samples_per_second"] = result.samples_per_second;
  summary["train_seconds"] = result.train_seconds;
  summary["load_seconds"] = load_seconds;
  summary["parameters"] = parameters;
  summary["rows"] = {{"train", data.train.rows()}, {"valid", data.valid.rows()}, {"test", data.test.rows()}};
  summary["peak_memory_mb"] = peak_memory_mb();
  summary["cpu"] = cpu_model();
  summary["threads"] = torch::get_num_threads();
  summary["device"] = options.train.device;
  summary["matrix_backend"] = {
      {"name", backend.name}, {"gflops", backend.gflops}, {"other_gflops", backend.other_gflops}, {"relative_error", backend.relative_error}};
  summary["options"] = options.config_text;
  htl::write_json(run / "summary.json", summary);
  std::cout << table_of(test, best) << "best epoch " << result.best_epoch << " of " << result.epochs << ", " << static_cast<int64_t>(result.samples_per_second)
            << " rows/s; everything is in " << run.string() << "\n";
  return 0;
}

int evaluate_run(const Options& given) {
  const std::filesystem::path run(given.run);
  Options options = read_run_options((run / "config.toml").string());
  options.train.threads = given.train.threads;
  if (!given.data.directory.empty()) options.data.directory = given.data.directory;
  if (!given.data.test_dates.empty()) options.data.test_dates = given.data.test_dates;
  prepare_process(options.train);
  const torch::Device device = device_of(options.train.device);
  if (device.is_cpu()) choose_matrix_backend(options.train.matrix_backend);
  const htl::FeatureMap features = htl::feature_map_from_json(htl::read_json(run / "features.json"));
  const htl::TaskSet tasks = htl::task_set_from_json(htl::read_json(run / "tasks.json"));
  HtlNet net(features, numeric_width(features), tasks, options.model);
  htl::load_module(run / "model.safetensors", *net);
  net->to(device);
  const Dataset data = load(options, &features);
  std::cout << table_of(evaluate(net, tasks, data.test, data.groups, device), optimum(options, data, tasks, false));
  return 0;
}

}  // namespace
}  // namespace htlnet

int main(int argc, char** argv) {
  int exit_code = 0;
  const htlnet::Options options = htlnet::parse_options(argc, argv, exit_code);
  try {
    if (options.command == "train") return htlnet::train(options);
    if (options.command == "evaluate") return htlnet::evaluate_run(options);
    if (options.command == "synthesize") {
      htlnet::write_synthetic(htlnet::synthetic_of(options), options.output);
      return 0;
    }
  } catch (const c10::Error& error) {
    std::cerr << "htlnet: " << error.what_without_backtrace() << "\n";
    return 1;
  } catch (const std::exception& error) {
    std::cerr << "htlnet: " << error.what() << "\n";
    return 1;
  }
  return exit_code;
}
