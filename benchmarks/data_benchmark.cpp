// SPDX-License-Identifier: Apache-2.0
// The way in: CSV text → numbers, CSV text → a data set with vocabularies, rows → shuffled batches. One core; bytes per second are bytes of text.
#include <examples/htlnet/data/csv_dataset.hpp>

#include <htl/data/batch_loader.hpp>
#include <htl/data/shuffle.hpp>

#include <benchmark/benchmark.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <string>

namespace {

/// A log of the kind that rankers learn from: two skewed id columns, eight small ones, four numbers, two labels; 62 bytes a row.
class Log {
 public:
  explicit Log(int64_t rows) : path_((std::filesystem::temp_directory_path() / ("htl_data_benchmark_" + std::to_string(::getpid()) + ".csv")).string()) {
    const htl::CounterRandom random(1, 0);
    uint64_t counter = 0;
    const auto uniform = [&] { return static_cast<double>(random(counter++) >> 11) * 0x1p-53; };
    const auto skewed = [&](double count) { return static_cast<int64_t>(std::pow(count, uniform())); };
    std::string text = "user,item,c0,c1,c2,c3,c4,c5,c6,c7,n0,n1,n2,n3,click,seconds\n";
    for (int64_t r = 0; r < rows; ++r) {
      text += std::to_string(skewed(1e6)) + "," + std::to_string(skewed(1e5));
      for (int j = 0; j < 8; ++j) text += "," + std::to_string(skewed(40.0));
      for (int j = 0; j < 4; ++j) text += "," + std::to_string(skewed(1e7)) + (j > 1 ? "." + std::to_string(skewed(1e4)) : "");
      text += std::string(uniform() < 0.4 ? ",1," : ",0,") + std::to_string(skewed(1e5) / 1000) + "." + std::to_string(100 + skewed(900.0)) + "\n";
    }
    std::ofstream(path_, std::ios::binary) << text;
    bytes_ = static_cast<int64_t>(text.size());
  }
  Log(const Log&) = delete;
  Log& operator=(const Log&) = delete;
  ~Log() { std::filesystem::remove(path_); }
  const std::string& path() const { return path_; }
  int64_t bytes() const { return bytes_; }

 private:
  std::string path_;
  int64_t bytes_ = 0;
};

void tokenise(benchmark::State& state) {
  const Log log(state.range(0));
  for (auto _ : state) {
    htl::CsvReader reader(log.path());
    size_t length = 0;
    while (reader.next()) length += reader[0].size();
    benchmark::DoNotOptimize(length);
  }
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations()) * log.bytes());
}

void tokenise_and_parse(benchmark::State& state) {
  const Log log(state.range(0));
  for (auto _ : state) {
    htl::CsvReader reader(log.path());
    const size_t columns = reader.header().size();
    double sum = 0.0;
    while (reader.next())
      for (size_t j = 0; j < columns; ++j) sum += reader.number(j);
    benchmark::DoNotOptimize(sum);
  }
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations()) * log.bytes());
}

void ingest(benchmark::State& state) {
  const Log log(state.range(0));
  htlnet::CsvSchema schema;
  for (const char* name : {"user", "item", "c0", "c1", "c2", "c3", "c4", "c5", "c6", "c7"}) schema.fields.push_back({.name = name, .min_count = 5});
  for (const char* name : {"n0", "n1", "n2", "n3"}) schema.fields.push_back({.name = name, .kind = htl::FieldKind::bucketised});
  schema.tasks = {htl::binary("click"), htl::regression("seconds")};
  schema.label_columns = {"click", "seconds"};
  schema.fractions = {0.8, 0.1, 0.1};
  for (auto _ : state) {
    const htlnet::Dataset data = htlnet::load_csv(log.path(), schema);
    benchmark::DoNotOptimize(data.train.all().fields.ids);
  }
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations()) * log.bytes());
}

/// [N, 43] ids, three labels, one context column: rows of KuaiRand's width.
htl::TableData table(int64_t rows) {
  htl::Batch all;
  all.fields = htl::FieldBatch::of(at::empty({rows, 43}, at::kInt).fill_(1));
  for (const char* task : {"click", "long_view", "watch_time"}) all.labels.set(task, {at::empty({rows}, at::kFloat).fill_(1.0)});
  all.labels.context.set("duration", at::empty({rows}, at::kFloat).fill_(1.0));
  return htl::TableData(std::move(all));
}

/// The ids alone: how fast rows of 172 bytes are picked in random order.
void gather_ids(benchmark::State& state) {
  htl::Batch ids;
  ids.fields = table(state.range(0)).all().fields;
  const htl::TableData data(std::move(ids));
  const std::vector<int64_t> order = htl::shuffled_rows(state.range(0), 1, 0);
  const size_t batch_size = static_cast<size_t>(state.range(1));
  size_t at = 0;
  for (auto _ : state) {
    if (at + batch_size > order.size()) at = 0;
    benchmark::DoNotOptimize(data.gather(std::span(order).subspan(at, batch_size)));
    at += batch_size;
  }
  state.SetItemsProcessed(static_cast<int64_t>(state.iterations()) * state.range(1));
}

/// Whole passes of the loader: order, ids, labels, context.
void loader_pass(benchmark::State& state) {
  htl::BatchLoader loader(table(state.range(0)), {.batch_size = state.range(1), .prefetch = state.range(2) != 0});
  for (auto _ : state)
    for (const htl::Batch& batch : loader) benchmark::DoNotOptimize(batch.fields.ids);
  state.SetItemsProcessed(static_cast<int64_t>(state.iterations()) * state.range(0));
}

BENCHMARK(tokenise)->Arg(20'000)->Arg(1'000'000)->Unit(benchmark::kMillisecond);
BENCHMARK(tokenise_and_parse)->Arg(20'000)->Arg(1'000'000)->Unit(benchmark::kMillisecond);
BENCHMARK(ingest)->Arg(20'000)->Arg(1'000'000)->Unit(benchmark::kMillisecond);
BENCHMARK(gather_ids)->ArgNames({"rows", "B"})->Args({131'474, 1024})->Args({131'474, 8192})->Args({2'000'000, 1024});
BENCHMARK(loader_pass)
    ->ArgNames({"rows", "B", "prefetch"})
    ->Args({131'474, 1024, 0})
    ->Args({131'474, 1024, 1})
    ->Args({131'474, 8192, 0})
    ->Unit(benchmark::kMillisecond)
    ->UseRealTime();

}  // namespace
