// SPDX-License-Identifier: Apache-2.0
// htlnet: trains, evaluates and feeds the HTLNet reference model. See htlnet --help.
#include "data/csv_dataset.hpp"
#include "data/kuairand.hpp"
#include "data/synthetic_dataset.hpp"
#include "machine.hpp"
#include "run_folder.hpp"
#include "stop_request.hpp"
#include "trainer.hpp"

#include <htl/io/feature_map_json.hpp>
#include <htl/io/task_set_json.hpp>

#include <torch/cuda.h>
#include <torch/types.h>
#include <torch/utils.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <filesystem>
#include <iostream>
#include <optional>

namespace htlnet {
namespace {

SyntheticOptions synthetic_of(const Options& options) {
  return {.scenario = scenario_of(options.data.scenario), .rows = options.data.rows, .seed = options.train.seed};
}

/// Gives the core regressions' labels a transform.
std::vector<htl::TaskSpec> with_core_label(const std::vector<htl::TaskSpec>& tasks, const std::string& transform) {
  std::vector<htl::TaskSpec> specs;
  for (const htl::TaskSpec& task : tasks)
    specs.push_back(task.is_core() && task.kind() == htl::TaskKind::regression ? task.transform(htl::label_transform(transform)) : task);
  return specs;
}

/// The schema's file under what the command line gives, and over the program's defaults.
CsvSchema schema_of(const Options& options) {
  HTL_CHECK(!options.data.schema.empty(), "htlnet: --dataset csv expects --schema, the TOML file that says what the columns are");
  CsvSchema schema = CsvSchema::read(options.data.schema);
  if (options.data.min_count || !schema.names_min_count)
    for (htl::FieldPlan& field : schema.fields) field.min_count = options.data.min_count.value_or(default_min_count);
  const std::vector<htl::TaskSpec> changed = with_core_label(schema.tasks, options.model.core_label.value_or(default_core_label));
  for (size_t t = 0; t < changed.size(); ++t)
    if (options.model.core_label || !schema.names_transform[t]) schema.tasks[t] = changed[t];
  if (options.all_rows) {
    schema.split_column.clear();
    schema.split = {};
    schema.fractions = {0.0, 0.0, 1.0};
  }
  return schema;
}

/// @param features a finished run's map; nothing = fit one to the training rows
Dataset load(const Options& options, const htl::FeatureMap* features = nullptr) {
  const DataOptions& data = options.data;
  if (data.dataset == "synthetic") {
    Dataset rows = synthetic_dataset(synthetic_of(options), data.min_count.value_or(default_min_count));
    if (options.model.core_label) rows.tasks = htl::TaskSet(with_core_label({rows.tasks.begin(), rows.tasks.end()}, *options.model.core_label));
    return rows;
  }
  HTL_CHECK(!data.directory.empty(), "htlnet: --dataset ", data.dataset, " expects --data, the folder with its files");
  if (data.dataset == "kuairand") {
    HTL_CHECK(features || (!data.train_dates.empty() && !data.valid_dates.empty()), "htlnet: --dataset kuairand expects --train-dates and --valid-dates");
    HTL_CHECK(!data.test_dates.empty(), "htlnet: --dataset kuairand expects --test-dates");
    kuairand_days(data.train_dates, data.valid_dates, data.test_dates);  // a finished run is not tested on days that it has learned from
    return load_kuairand(data.directory, features ? "" : data.train_dates, features ? "" : data.valid_dates, data.test_dates,
                         {.min_count = data.min_count.value_or(default_min_count),
                          .core_transform = options.model.core_label.value_or(default_core_label),
                          .features = features});
  }
  const CsvSchema schema = schema_of(options);
  HTL_CHECK(!features || schema.asks_for(2), "htlnet: expected test rows, and [split] of \"", schema.path, "\" has none; --all-rows tests every row of --data");
  return load_csv(data.directory, schema, {.features = features});
}

/// What load() is about to do, for who waits.
std::string loading(const DataOptions& data) {
  return data.dataset == "synthetic" ? "simulating " + std::to_string(data.rows) + " rows …" : "reading \"" + data.directory + "\" …";
}

/// Says where days of an earlier part come after those of a later one.
void warn_of_days(const DataOptions& data, Progress& progress) {
  const std::array<std::string, 3> texts = {data.train_dates, data.valid_dates, data.test_dates};
  const std::array<std::optional<DateRange>, 3> days = kuairand_days(texts[0], texts[1], texts[2]);
  for (size_t late = 1; late < 3; ++late)
    for (size_t early = 0; early < late; ++early)
      if (days[early] && days[late] && days[early]->first > days[late]->last)
        progress.warning("the " + std::string(kuairand::split_names[early]) + " days " + texts[early] + " come after the " +
                         std::string(kuairand::split_names[late]) + " days " + texts[late] +
                         ": the model knows what the future brings, and its metrics flatter it");
}

int64_t numeric_width(const htl::FeatureMap& features) { return static_cast<int64_t>(features.numeric().size()); }

torch::Device device_of(const std::string& name) {
  HTL_CHECK(name != "cuda" || torch::cuda::is_available(),
            "htlnet: --device cuda expects a CUDA device and a LibTorch with CUDA, found none; use --device cpu");
  return torch::Device(name);
}

void prepare_process(const TrainOptions& options) {
  keep_freed_memory();
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
  return to_json(metrics.values());
}

/// (model − best additive) / (optimum − best additive), for each metric that ranks.
nlohmann::json closed_share(const nlohmann::json& model, const nlohmann::json& additive, const nlohmann::json& best) {
  nlohmann::json result;
  for (const auto& [task, values] : best.items())
    for (const std::string metric : {"auc", "log_loss", "nrmse", "spearman", "normalized_gini"})
      if (values.contains(metric) && values[metric].is_number() && additive[task][metric].is_number() && model[task][metric].is_number())
        result[task][metric] = to_json((model[task][metric].get<double>() - additive[task][metric].get<double>()) /
                                       (values[metric].get<double>() - additive[task][metric].get<double>()));
  return result;
}

/// The test metrics, and beside those of a regression what its normalised errors were divided by.
nlohmann::json with_denominators(nlohmann::json test, const htl::TaskSet& tasks) {
  const htl::TaskMetricsOptions divided_by = htl::TaskMetrics(tasks).options();
  for (const htl::TaskSpec& task : tasks)
    if (task.kind() == htl::TaskKind::regression) {
      test[task.name()]["nrmse_denominator"] = htl::to_string(divided_by.nrmse);
      test[task.name()]["nmae_denominator"] = htl::to_string(divided_by.nmae);
    }
  return test;
}

int train(const Options& options) {
  RunFolder run(options);
  if (run.is_finished()) {
    std::cout << "the run in " << options.output << " is finished: " << run.file("summary.json").string() << "\n";
    return 0;
  }
  prepare_process(options.train);
  const torch::Device device = device_of(options.train.device);
  const MatrixBackend backend = device.is_cpu() ? choose_matrix_backend(options.train.matrix_backend) : MatrixBackend{.name = "cublas"};
  Progress progress(options.train.quiet);
  if (options.data.dataset == "kuairand") warn_of_days(options.data, progress);
  progress.line(loading(options.data));
  const auto start = std::chrono::steady_clock::now();
  const Dataset data = load(options);
  const double load_seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  const htl::TaskSet tasks = data.tasks.fitted(data.train.labels());

  // Everything that can be refused is, before the folder is made
  const Selection selection = Selection::parse(options.train.select_by, tasks, data.groups);
  HTL_CHECK(options.model.adjuster != "core_task" || !tasks.cores().empty(),
            "htlnet: --adjuster core_task expects a core task, found none; mark one by core = true in the schema, or give --adjuster sum");
  HtlNet net(data.features, numeric_width(data.features), tasks, options.model);
  int64_t parameters = 0;
  for (const torch::Tensor& parameter : net->parameters()) parameters += parameter.numel();
  net->to(device);
  htl::BatchLoader loader = training_loader(data.train, options.train, device);
  Trainer trainer(net, tasks, options, std::max<int64_t>(1, loader.batches()));

  htl::TrainingState state;
  trainer.add_to(state);
  state.add("loader", loader);
  const int64_t begin = run.begin(data, tasks, state);
  for (const std::string& sentence : run.warnings()) progress.warning(sentence);
  progress.line("rows: " + std::to_string(data.train.rows()) + " train, " + std::to_string(data.valid.rows()) + " valid, " + std::to_string(data.test.rows()) +
                " test (read in " + std::to_string(load_seconds).substr(0, 4) + " s); " + std::to_string(parameters) + " parameters, " +
                std::to_string(net->embedding->weight.size(0)) + " embedding rows; matrix products: " + backend.name);
  if (begin > 0) progress.line("going on from step " + std::to_string(begin));
  const StopRequest stop;
  const std::filesystem::path weights = run.file("model.safetensors");
  HTL_CHECK(trainer.result().best_epoch == 0 || std::filesystem::exists(weights), "htlnet: \"", weights.string(),
            "\" of the best epoch is not there, and the checkpoint goes on after it; give another --output");
  const bool ended = trainer.run(loader, data.valid, data.groups, selection,
                                 {.log = [&](const nlohmann::json& line) { run.log(line); },
                                  .keep = [&] { htl::save_module(weights, *net); },
                                  .checkpoint = [&](int64_t step) { run.checkpoint(step); },
                                  .is_asked_to_stop = [&] { return stop.signal() != 0; }});
  if (!ended) {
    std::cerr << "htlnet: stopped after step " << trainer.steps() << "; --resume goes on from there\n";
    return 128 + stop.signal();
  }
  const TrainingResult& result = trainer.result();
  htl::load_module(weights, *net);

  const Evaluation test = evaluate(net, tasks, data.test, data.groups, device);
  const nlohmann::json best = optimum(options, data, tasks, false);
  run.log({{"kind", "evaluation"},
           {"split", "test"},
           {"epoch", result.best_epoch},
           {"step", trainer.steps()},
           {"metrics", test.metrics},
           {"by_group", test.by_group}});
  nlohmann::ordered_json summary;
  summary["test"] = with_denominators(test.metrics, tasks);
  if (!test.by_group.empty()) summary["test_by_group"] = test.by_group;
  if (!best.empty()) {
    const nlohmann::json additive = optimum(options, data, tasks, true);
    summary["optimum"] = best;
    summary["best_additive"] = additive;
    summary["share_of_gap_closed"] = closed_share(test.metrics, additive, best);
  }
  summary["selected_by"] = data.valid.rows() > 0 ? nlohmann::json(selection.task + "." + selection.metric) : nlohmann::json();
  summary["best_epoch"] = result.best_epoch;
  summary["best_validation_value"] = to_json(result.best_value);
  summary["epochs"] = result.epochs;
  summary["steps"] = trainer.steps();
  summary["samples_per_second"] = result.samples_per_second;
  summary["train_seconds"] = result.train_seconds;
  summary["load_seconds"] = load_seconds;
  summary["parameters"] = parameters;
  summary["rows"] = {{"train", data.train.rows()}, {"valid", data.valid.rows()}, {"test", data.test.rows()}};
  summary["peak_memory_mb"] = peak_memory_mb();
  summary["cpu"] = cpu_model();
  summary["threads"] = torch::get_num_threads();
  summary["device"] = options.train.device;
  if (device.is_cuda()) {
    summary["gpu"] = gpu_model();
    if (const std::optional<double> peak = peak_device_memory_mb()) summary["peak_device_memory_mb"] = *peak;
  }
  summary["matrix_backend"] = {
      {"name", backend.name}, {"gflops", backend.gflops}, {"other_gflops", backend.other_gflops}, {"relative_error", backend.relative_error}};
  summary["options"] = options.values;
  run.finish(summary);
  std::cout << table_of(test.metrics, best, summary.value("share_of_gap_closed", nlohmann::json()));
  if (!best.empty()) std::cout << "gap closed: from the best additive model to the optimum\n";
  std::cout << "best epoch " << result.best_epoch << " of " << result.epochs << ", " << static_cast<int64_t>(result.samples_per_second)
            << " rows/s; everything is in " << options.output << "\n";
  return 0;
}

int evaluate_run(const Options& given) {
  const std::filesystem::path run(given.run);
  Options options = read_run_options((run / "config.toml").string());
  const std::string& dataset = options.data.dataset;
  HTL_CHECK(given.data.test_dates.empty() || dataset == "kuairand", "htlnet: --test-dates is for runs on kuairand, and \"", given.run, "\" is one on ", dataset,
            dataset == "csv" ? "; --all-rows tests every row of --data" : "");
  HTL_CHECK(!given.all_rows || dataset == "csv", "htlnet: --all-rows is for runs on csv, and \"", given.run, "\" is one on ", dataset);
  HTL_CHECK(given.data.directory.empty() || dataset != "synthetic", "htlnet: --data is for runs on files, and \"", given.run, "\" is one on synthetic rows");
  options.train.threads = given.train.threads;
  options.all_rows = given.all_rows;
  if (!given.device.empty()) options.train.device = given.device;
  if (options.train.device == "cpu") options.train.precision = "fp32";  // evaluation is not autocast, and tf32 is refused there
  if (!given.data.directory.empty()) options.data.directory = given.data.directory;
  if (!given.data.test_dates.empty()) options.data.test_dates = given.data.test_dates;
  if (dataset == "csv") options.data.schema = (run / "schema.toml").string();
  prepare_process(options.train);
  const torch::Device device = device_of(options.train.device);
  if (device.is_cpu()) choose_matrix_backend(options.train.matrix_backend);
  const htl::FeatureMap features = htl::feature_map_from_json(htl::read_json(run / "features.json"));
  const htl::TaskSet tasks = htl::task_set_from_json(htl::read_json(run / "tasks.json"));
  HtlNet net(features, numeric_width(features), tasks, options.model);
  htl::load_module(run / "model.safetensors", *net);
  net->to(device);
  Progress progress(false);
  progress.line(loading(options.data));
  const Dataset data = load(options, &features);
  std::cout << table_of(evaluate(net, tasks, data.test, data.groups, device).metrics, optimum(options, data, tasks, false)) << data.test.rows()
            << " test rows\n";
  return 0;
}

int write_rows(const Options& options) {
  Progress progress(false);
  progress.line(loading(options.data));
  write_synthetic(synthetic_of(options), options.output);
  progress.line("rows.csv, schema.toml and truth.csv are in " + options.output);
  return 0;
}

int complain(const std::string& sentence) {
  std::cerr << (sentence.starts_with("htlnet: ") ? "" : "htlnet: ") << sentence << "\n";
  return 1;
}

}  // namespace
}  // namespace htlnet

int main(int argc, char** argv) {
  int exit_code = 0;
  const htlnet::Options options = htlnet::parse_options(argc, argv, exit_code);
  try {
    if (options.command == "train") return htlnet::train(options);
    if (options.command == "evaluate") return htlnet::evaluate_run(options);
    if (options.command == "synthesize") return htlnet::write_rows(options);
  } catch (const c10::Error& error) {
    return htlnet::complain(error.what_without_backtrace());
  } catch (const std::exception& error) {
    return htlnet::complain(error.what());
  }
  return exit_code;
}
