// SPDX-License-Identifier: Apache-2.0
// htlnet: trains, evaluates and feeds the HTLNet reference model, and looks at its data. See htlnet --help.
#include "data/line_writer.hpp"
#include "data/load.hpp"
#include "data/synthetic_dataset.hpp"
#include "inspect.hpp"
#include "machine.hpp"
#include "memory.hpp"
#include "parts_by_name.hpp"
#include "run_folder.hpp"
#include "stop_request.hpp"
#include "trainer.hpp"
#include "warm_start.hpp"

#include <htl/io/feature_map_json.hpp>
#include <htl/io/task_set_json.hpp>
#include <htl/io/warm_start_maps.hpp>

#include <torch/cuda.h>
#include <torch/types.h>
#include <torch/utils.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <filesystem>
#include <iostream>
#include <new>
#include <optional>

namespace htlnet {
namespace {

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

/// The run to start from; nothing where there is none, and where --resume goes on after its start.
std::optional<EarlierRun> earlier_run(const Options& options, bool goes_on) {
  if (options.warm_start.empty() || goes_on) return std::nullopt;
  HTL_CHECK(std::filesystem::weakly_canonical(options.warm_start) != std::filesystem::weakly_canonical(options.output),
            "htlnet: --warm-start and --output are both \"", options.output, "\", and a run can't start from what it replaces; give another --output");
  return EarlierRun(options.warm_start);
}

/// Takes the earlier run's model over, and says what that gave.
nlohmann::ordered_json carry_over(const EarlierRun& earlier, const htl::FeatureMap& features, const htl::TaskSet& tasks, const Options& options,
                                  Trainer& trainer, Progress& progress) {
  htl::WarmStart start = earlier.map_to(features, tasks, options.model);
  trainer.carry_over(start, earlier.weights(), earlier.state());
  HTL_CHECK(std::any_of(start.report().entries.begin(), start.report().entries.end(), [](const htl::WarmStartEntry& entry) { return entry.carried > 0; }),
            "htlnet: nothing of the run in \"", options.warm_start, "\" fits into this model; leave out --warm-start, or give the options of that run");
  progress.line("starting from the run in \"" + options.warm_start + "\"");
  for (const std::string& line : start.report().lines()) line.starts_with("carried") || line.starts_with("new") ? progress.line(line) : progress.warning(line);
  return htl::to_json(start.report());
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
  check_memory_of_rows(options);
  progress.line(loading(options.data));
  const auto start = std::chrono::steady_clock::now();
  std::optional<EarlierRun> earlier = earlier_run(options, run.goes_on());
  std::optional<RunStatistics> kept;  // a run that goes on has them from its start
  if (!options.warm_start.empty() && options.keeps_statistics) kept = RunStatistics::read(run.goes_on() ? options.output : options.warm_start);
  const Dataset data = load(options, nullptr, kept ? &kept->features : nullptr);
  const double load_seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  for (const htl::TaskSpec& task : data.tasks) {
    const torch::Tensor observed = data.train.labels()[task.name()].observed_rows();
    HTL_CHECK(!observed.defined() || observed.numel() > 0, "htlnet: task \"", task.name(), "\" has no label in any of the ", data.train.rows(),
              " training rows; name its column and mask in the schema, or leave the task out");
  }
  htl::TaskSet tasks = with_calibrators(with_losses(data.tasks, options.model.loss), options.model.calibrate).fitted(data.train.labels());
  HTL_CHECK(!has_calibrators(tasks) || data.valid.rows() > 0, "htlnet: --calibrate is fitted to validation rows, and there are none; give --valid-dates, or a ",
            "[split] that has them");
  if (kept) tasks = htl::with_statistics_of(kept->tasks, tasks);

  // Everything that can be refused is, before the folder is made
  const Selection selection = Selection::parse(options.train.select_by, tasks, data.groups);
  check_adjuster(options.model, tasks);
  check_memory(options, data.features, tasks);
  HtlNet net(data.features, numeric_width(data.features), tasks, options.model);
  int64_t parameters = 0;
  for (const torch::Tensor& parameter : net->parameters()) parameters += parameter.numel();
  net->to(device);
  htl::BatchLoader loader = training_loader(data.train, options.train, device);
  Trainer trainer(net, tasks, options, std::max<int64_t>(1, loader.batches()));

  nlohmann::ordered_json warm_start;
  if (earlier) warm_start = carry_over(*earlier, data.features, tasks, options, trainer, progress);
  earlier.reset();  // it is as large as the model
  htl::TrainingState state;
  trainer.add_to(state);
  state.add("loader", loader);
  const int64_t begin = run.begin(data, tasks, net, state, warm_start);
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
                                  .keep =
                                      [&] {
                                        const auto step = htl::Named<std::string>().set("step", std::to_string(trainer.steps()));
                                        htl::save_safetensors(run.file("optimizer.safetensors"), {trainer.optimizer_state(), step});
                                        htl::save_module(weights, *net, step);
                                      },
                                  .checkpoint = [&](int64_t step) { run.checkpoint(step); },
                                  .is_asked_to_stop = [&] { return stop.signal() != 0; }});
  if (!ended) {
    std::cerr << "htlnet: stopped after step " << trainer.steps() << "; --resume goes on from there\n";
    return 128 + stop.signal();
  }
  const TrainingResult& result = trainer.result();
  htl::load_module(weights, *net);
  if (has_calibrators(tasks)) {
    tasks = tasks.calibrated(outputs_of(net, data.valid, device), data.valid.labels());
    htl::write_json(run.file("tasks.json"), htl::to_json(tasks));
  }

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

/// A run that is finished, as evaluate and predict open it.
struct FinishedRun {
  Options options;
  htl::FeatureMap features;
  htl::TaskSet tasks;
  HtlNet net;
  torch::Device device;
};

FinishedRun open_run(const Options& given) {
  const std::filesystem::path folder(given.run);
  Options options = read_run_options((folder / "config.toml").string());
  const std::string& dataset = options.data.dataset;
  HTL_CHECK(given.data.test_dates.empty() || dataset == "kuairand" || dataset == "online_retail",
            "htlnet: --test-dates is for runs on kuairand and online_retail, and \"", given.run, "\" is one on ", dataset,
            dataset == "csv" && given.command == "evaluate" ? "; --all-rows tests every row of --data" : "");
  HTL_CHECK(!given.all_rows || dataset == "csv", "htlnet: --all-rows is for runs on csv, and \"", given.run, "\" is one on ", dataset);
  HTL_CHECK(given.data.directory.empty() || dataset != "synthetic", "htlnet: --data is for runs on files, and \"", given.run, "\" is one on synthetic rows");
  options.command = given.command;
  options.train.threads = given.train.threads;
  options.all_rows = given.all_rows;
  if (!given.device.empty()) options.train.device = given.device;
  if (options.train.device == "cpu") options.train.precision = "fp32";  // evaluation is not autocast, and tf32 is refused there
  if (!given.data.directory.empty()) options.data.directory = given.data.directory;
  if (!given.data.test_dates.empty()) options.data.test_dates = given.data.test_dates;
  if (dataset == "csv") options.data.schema = (folder / "schema.toml").string();
  prepare_process(options.train);
  const torch::Device device = device_of(options.train.device);
  if (device.is_cpu()) choose_matrix_backend(options.train.matrix_backend);
  const htl::FeatureMap features = htl::feature_map_from_json(htl::read_json(folder / "features.json"));
  const htl::TaskSet tasks = htl::task_set_from_json(htl::read_json(folder / "tasks.json"));
  HtlNet net(features, numeric_width(features), tasks, options.model);
  htl::load_module(folder / "model.safetensors", *net);
  net->to(device);
  Progress(false).line(loading(options.data));
  return {std::move(options), features, tasks, std::move(net), device};
}

int evaluate_run(const Options& given) {
  FinishedRun run = open_run(given);
  const Dataset data = load(run.options, &run.features);
  std::cout << table_of(evaluate(run.net, run.tasks, data.test, data.groups, run.device).metrics, optimum(run.options, data, run.tasks, false))
            << data.test.rows() << " test rows\n";
  return 0;
}

/// A line a row, a column a task (one a class, TASK.CLASS, where it is multiclass).
int predict_run(const Options& given) {
  FinishedRun run = open_run(given);
  const htl::TableData rows = load(run.options, &run.features).test;
  const torch::InferenceMode inference;
  run.net->eval();
  LineWriter file(given.output);
  std::string header;
  for (const htl::TaskSpec& task : run.tasks)
    for (int64_t k = 0; k < (task.kind() == htl::TaskKind::multiclass ? task.classes() : 1); ++k)
      header += (header.empty() ? "" : ",") + csv_text(task.kind() == htl::TaskKind::multiclass ? task.name() + "." + std::to_string(k) : task.name());
  file << header << "\n";
  htl::BatchLoader loader(rows, {.batch_size = 8192, .shuffle = false});
  for (const htl::Batch& batch : loader) {
    const htl::Batch moved = batch.to(run.device);
    std::vector<torch::Tensor> columns;
    for (const auto& [name, value] : run.tasks.predict(run.net->forward(moved), moved.labels.context))
      columns.push_back(value.to(torch::kCPU, torch::kFloat).reshape({batch.rows(), -1}));
    const torch::Tensor table = torch::cat(columns, 1).contiguous();
    const float* number = table.const_data_ptr<float>();
    for (int64_t row = 0; row < table.size(0); ++row)
      for (int64_t c = 0; c < table.size(1); ++c) file << *number++ << (c + 1 < table.size(1) ? "," : "\n");
  }
  file.commit();
  std::cout << rows.rows() << " rows in " << given.output << "\n";
  return 0;
}

int inspect_rows(const Options& options) {
  prepare_process(options.train);
  Progress progress(false);
  if (options.data.dataset == "kuairand") warn_of_days(options.data, progress);
  progress.line(loading(options.data));
  inspect(load(options), options, std::cout);
  return 0;
}

int write_rows(const Options& options) {
  Progress progress(false);
  progress.line(loading(options.data));
  write_synthetic(synthetic_of(options), options.output);
  progress.line("rows.csv, schema.toml and truth.csv are in " + options.output);
  return 0;
}

constexpr const char* out_of_memory =
    "htlnet: the memory ran out; lower --rows, --embedding-dim, --tower or --batch-size, or raise --min-count. What was saved before stays, and --resume goes on";

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
    if (options.command == "predict") return htlnet::predict_run(options);
    if (options.command == "inspect") return htlnet::inspect_rows(options);
    if (options.command == "synthesize") return htlnet::write_rows(options);
  } catch (const std::bad_alloc&) {
    return htlnet::complain(htlnet::out_of_memory);
  } catch (const c10::Error& error) {
    return htlnet::complain(htlnet::is_out_of_memory(error) ? htlnet::out_of_memory : error.what_without_backtrace());
  } catch (const std::exception& error) {
    return htlnet::complain(error.what());
  }
  return exit_code;
}
