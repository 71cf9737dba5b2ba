// SPDX-License-Identifier: Apache-2.0
// One model in evaluation, asked by several threads at once, as a server does.
#include <htl/embedding/field_embedding.hpp>
#include <htl/gradient/fork.hpp>
#include <htl/transfer/task_graph.hpp>
#include <htl/weighting/core_task.hpp>

#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <thread>

#include "support/seeded.hpp"

namespace {

using namespace htl;
using htl::test::Random;
using htl::test::same_bits;

TEST(Serving, GivesEveryThreadTheSameBits) {
  const TaskSet tasks{binary("click"), multiclass("rating", 3), regression("watch_time").transform(ZScoreTransform{3.0, 2.0}).core()};
  for (const FusionKind kind : {FusionKind::attention, FusionKind::concat, FusionKind::gate, FusionKind::mean}) {
    SCOPED_TRACE(to_string(kind));
    Random random(5);
    FieldEmbedding embedding(FieldEmbeddingOptions({50, 20}, 4).frozen_zero(true));
    GradientFork<CoreTask> fork(tasks);
    TaskGraph<> graph(tasks, TaskGraphOptions(8).tower({16, 8}).fusion(kind).dropout(0.5));
    embedding->eval();
    graph->eval();
    const auto serve = [&](const FieldBatch& ids) {
      const c10::InferenceMode inference;
      Batch batch;
      batch.fields = ids;
      return tasks.predict(graph->forward(fork->split(embedding->lookup(batch))));
    };
    std::vector<FieldBatch> requests;
    std::vector<Predictions> alone;
    for (int i = 0; i < 8; ++i) {
      requests.push_back(FieldBatch::of(at::stack({random.ids({i + 1}, 50), random.ids({i + 1}, 20)}, 1)));
      alone.push_back(serve(requests.back()));
    }
    std::vector<int> wrong(4, 0);
    std::vector<std::thread> threads;
    for (size_t t = 0; t < wrong.size(); ++t)
      threads.emplace_back([&, t] {
        for (size_t round = 0; round < 50; ++round) {
          const size_t i = (t + round) % requests.size();
          const Predictions found = serve(requests[i]);
          for (const std::string& name : tasks.names()) wrong[t] += !same_bits(found[name], alone[i][name]);
        }
      });
    for (std::thread& thread : threads) thread.join();
    EXPECT_EQ(wrong, std::vector<int>(4, 0));
  }
}

}  // namespace
