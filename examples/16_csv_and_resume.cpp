// SPDX-License-Identifier: Apache-2.0
// Your own training from a CSV file: ids fitted to the rows, a schedule, clipping, checkpoints. The second run stops on its way, the third goes on from there.
// run: whole
// run: stop
// run: resume
#include <htl/data/csv.hpp>
#include <htl/data/field_counter.hpp>
#include <htl/htl.hpp>
#include <htl/io/checkpoint.hpp>

#include <torch/torch.h>

#include <cstdio>
#include <fstream>
#include <string>
#include <vector>

int main(int argc, char** argv) {
  const std::string run = argc > 1 ? argv[1] : "whole";
  std::ofstream log("log.csv");
  log << "user,hour,click,seconds\n";
  for (int i = 0; i < 4'000; ++i) log << 'u' << i * i % 97 << ',' << i % 24 << ',' << (i * i % 97 + i % 24 > 60) << ',' << i % 24 + i % 7 << '\n';
  log.close();
  torch::manual_seed(1);

  // [read]
  htl::FieldCounter user({.name = "user", .min_count = 2}), hour({.name = "hour", .kind = htl::FieldKind::bucketised, .buckets = 8});
  std::vector<int32_t> codes, ids;
  std::vector<float> click, seconds;
  htl::CsvReader reader("log.csv");  // or .csv.gz
  const size_t user_at = reader.column("user"), hour_at = reader.column("hour"), click_at = reader.column("click"), seconds_at = reader.column("seconds");
  while (reader.next()) {
    user.count(codes.emplace_back(user.encode(reader[user_at])));  // count() in training rows only
    hour.count(codes.emplace_back(hour.encode(reader[hour_at])));
    click.push_back(static_cast<float>(reader.number(click_at)));
    seconds.push_back(static_cast<float>(reader.number(seconds_at)));
  }
  const htl::FeatureMap features({user.fit(), hour.fit()});
  for (size_t i = 0; i < codes.size(); i += 2) ids.insert(ids.end(), {user.id(codes[i]), hour.id(codes[i + 1])});
  htl::Batch all{htl::FieldBatch::of(torch::tensor(ids, torch::kInt).view({-1, 2}))};
  all.labels.set("click", {torch::tensor(click)}).set("watch_time", {torch::tensor(seconds)});
  // [read]
  const auto tasks = htl::TaskSet{htl::binary("click"), htl::regression("watch_time").core().transform(htl::z_score())}.fitted(all.labels);
  htl::FieldEmbedding embedding(features, 8);
  htl::GradientFork<htl::CoreTask> fork(tasks);
  htl::TaskGraph<> graph(tasks, htl::TaskGraphOptions(embedding->width()).tower({32, 16}));
  const htl::HybridLoss loss(tasks);
  htl::RowAdagrad rows(embedding, {.lr = 0.05});
  htl::FusedAdam dense(graph->parameters());
  // [loop]
  int64_t step = 0;
  htl::BatchLoader loader(htl::TableData(all), {.batch_size = 256, .seed = 1});
  htl::TrainingState state;  // all that the training remembers
  state.add("embedding", embedding).add("fork", fork).add("graph", graph).add("rows", rows).add("dense", dense);
  state.add("loader", loader).add("rng", at::detail::getDefaultCPUGenerator()).add("step", step);
  const htl::Checkpoints checkpoints(run == "whole" ? "whole" : "stopped");  // a folder; the newest two are kept
  if (const auto newest = checkpoints.newest()) state.load(newest->tensors);
  const int64_t first = step;
  const htl::WarmUp rate{20, htl::CosineDecay{.lr = 1e-2, .steps = 59}};
  while (loader.state().epoch < 5)
    for (const htl::Batch& batch : loader) {
      htl::set_lr(dense, rate(step++));
      dense.zero_grad();
      htl::backward(loss(graph->forward(fork->split(embedding->lookup(batch))), batch.labels), fork);
      htl::clip_grad_norm(embedding, dense.parameters(), 10.0);
      rows.step();
      dense.step();
      if (step % 10 == 0) checkpoints.save(step, state);
      if (run == "stop" && step == 37) return 0;  // as if it were killed: seven steps are lost, and made again
    }
  // [loop]
  graph->eval();
  const torch::NoGradGuard no_grad;
  const htl::Predictions predictions = tasks.predict(graph->forward(embedding->forward(all)));
  if (run == "whole") htl::save_safetensors("whole.safetensors", {predictions, {}});
  bool same = true;
  for (const auto& [name, value] : htl::load_safetensors("whole.safetensors").tensors) same = same && torch::equal(value, predictions[name]);
  std::printf("%s: steps %d to %d, %s predictions\n", run.c_str(), static_cast<int>(first), static_cast<int>(step), same ? "the same" : "other");
  return 0;
}
