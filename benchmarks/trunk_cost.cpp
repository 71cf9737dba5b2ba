// SPDX-License-Identifier: Apache-2.0
// What exact gradients of a dense shared trunk cost: a 512-512 bottom under T towers, one forward and backward (no optimizer) in several ways, in turns within
// one run, beside the bare matrix products that the exact way cannot do without.
//
// usage: trunk_cost [--steps N] [--tasks T] [--threads N] [--backend mkl|onednn]
#include <htl/gradient/backward.hpp>
#include <htl/nn/mlp.hpp>
#include <htl/weighting/core_task.hpp>

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <torch/nn/modules/activation.h>
#include <torch/nn/modules/container/sequential.h>
#include <torch/nn/modules/linear.h>

#ifdef __GLIBC__
#include <malloc.h>
#endif

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <vector>

namespace {

using at::Tensor;
constexpr int64_t width = 512, hidden = 64;

struct Net {
  explicit Net(int64_t count) : tasks(count) {
    for (int64_t t = 0; t < count; ++t) {
      towers.emplace_back(htl::MlpOptions(width, {hidden}));
      heads.push_back(at::randn({hidden}).requires_grad_());
    }
  }
  htl::TaskLosses losses(const std::vector<Tensor>& views, const Tensor& labels) {
    htl::TaskLosses result;
    for (size_t t = 0; t < towers.size(); ++t)
      result.values.set(std::to_string(t), (towers[t]->forward(views[t]).mv(heads[t]) - labels.select(1, static_cast<int64_t>(t))).square().mean());
    return result;
  }
  int64_t tasks;
  htl::Mlp ours{htl::MlpOptions(width, {width, width})};
  torch::nn::Sequential unknown{torch::nn::Linear(width, width), torch::nn::ReLU(), torch::nn::Linear(width, width), torch::nn::ReLU()};
  std::vector<htl::Mlp> towers;
  std::vector<Tensor> heads;
};

htl::TaskSet task_set(int64_t count) {
  std::vector<htl::TaskSpec> tasks;
  for (int64_t t = 0; t < count; ++t) tasks.push_back(htl::regression(std::to_string(t)).core(t + 1 == count));
  return htl::TaskSet(tasks);
}

double milliseconds(const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
}

double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2), values.end());
  return values[values.size() / 2];
}

void measure(int64_t rows, int64_t tasks, int steps) {
  Net net(tasks);
  const htl::TaskSet set = task_set(tasks);
  htl::GradientFork<htl::CoreTask> fork(set);
  const Tensor x = at::randn({rows, width}), labels = at::randn({rows, tasks});
  const auto clear = [&] {
    for (torch::nn::Module* module : std::vector<torch::nn::Module*>{net.ours.get(), net.unknown.get()}) module->zero_grad();
    for (htl::Mlp& tower : net.towers) tower->zero_grad();
    for (Tensor& head : net.heads) head.mutable_grad() = Tensor();
  };
  const auto plain = [&](auto& trunk) {
    return [&] {
      const Tensor shared = trunk->forward(x);
      net.losses(std::vector<Tensor>(static_cast<size_t>(tasks), shared), labels).sum().backward();
    };
  };
  const auto representation = [&] { htl::backward(net.losses(fork->split(net.ours->forward(x)), labels), fork); };
  const auto exact = [&](auto& trunk) { return [&] { htl::backward(net.losses(fork->split(trunk->forward(x)), labels), fork, htl::shared(trunk)); }; };
  // the products of the exact way: forward of both layers; a task: dW of both, dX of the second
  const Tensor a = at::randn({rows, width}), w = at::randn({width, width}), g = at::randn({rows, width});
  Tensor out = at::empty({rows, width}), dw = at::empty({width, width});
  const auto products = [&] {
    for (int layer = 0; layer < 2; ++layer) at::mm_out(out, a, w.t());
    for (int64_t t = 0; t < tasks; ++t) {
      for (int layer = 0; layer < 2; ++layer) at::mm_out(dw, g.t(), a);
      at::mm_out(out, g, w);
    }
  };
  const auto towers_alone = [&] {  // what stands above the fork is no part of the trunk
    const Tensor shared = x.detach().requires_grad_();
    net.losses(std::vector<Tensor>(static_cast<size_t>(tasks), shared), labels).sum().backward();
  };
  const std::vector<std::pair<const char*, std::function<void()>>> ways = {{"plain sum, htl::Mlp", plain(net.ours)},
                                                                           {"representation, htl::Mlp", representation},
                                                                           {"exact, htl::Mlp", exact(net.ours)},
                                                                           {"plain sum, nn::Linear", plain(net.unknown)},
                                                                           {"exact, nn::Linear", exact(net.unknown)},
                                                                           {"products of the exact way", products},
                                                                           {"towers alone", towers_alone}};
  std::vector<std::vector<double>> times(ways.size());
  for (int step = -3; step < steps; ++step)
    for (size_t i = 0; i < ways.size(); ++i) {
      clear();
      const double time = milliseconds(ways[i].second);
      if (step >= 0) times[i].push_back(time);
    }
  const auto ratio = [&](size_t i, size_t to, size_t without) {
    std::vector<double> ratios;
    for (size_t s = 0; s < times[i].size(); ++s) ratios.push_back((times[i][s] - (without < ways.size() ? times[without][s] : 0.0)) / times[to][s]);
    return median(ratios);
  };
  std::printf("\n| B = %lld, T = %lld | ms |\n|---|---:|\n", static_cast<long long>(rows), static_cast<long long>(tasks));
  for (size_t i = 0; i < ways.size(); ++i) std::printf("| %s | %.3f |\n", ways[i].first, median(times[i]));
  std::printf("\nmedians of ratios: representation / plain %.3f; (exact - towers) / products %.3f; the same with nn::Linear %.3f; exact / plain %.3f\n",
              ratio(1, 0, ways.size()), ratio(2, 5, 6), ratio(4, 5, 6), ratio(2, 0, ways.size()));
}

}  // namespace

int main(int argc, char** argv) {
  int steps = 30, threads = 2;
  int64_t tasks = 4;
  std::string backend = "mkl";
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string option = argv[i], value = argv[i + 1];
    if (option == "--steps") steps = std::atoi(value.c_str());
    if (option == "--tasks") tasks = std::atoll(value.c_str());
    if (option == "--threads") threads = std::atoi(value.c_str());
    if (option == "--backend") backend = value;
  }
#ifdef __GLIBC__
  mallopt(M_MMAP_THRESHOLD, 32 << 20);  // as htlnet does: what is measured is work, not the page faults of memory that was given back
  mallopt(M_TRIM_THRESHOLD, 1 << 30);
#endif
  at::set_num_threads(threads);
  if (backend == "onednn") at::globalContext().setFloat32MatmulPrecision("medium");
  for (const int64_t rows : {1024, 256, 64, 16}) measure(rows, tasks, steps);
  return 0;
}
