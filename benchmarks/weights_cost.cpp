// SPDX-License-Identifier: Apache-2.0
// What a method's answer to a Gramian costs: microseconds of weights(K) for every Gramian method of the library, T = 3, 8, 32. compare_weights.py runs it
// beside another library on the same matrices.
//
// usage: weights_cost [--matrices FILE] [--methods NAME[:option=value,…]…]
//   FILE: a line a matrix, T and then its T² numbers; without it 40 random ones a T. Prints a line a method and T: name, T, median in microseconds.
#include <htl/weighting/built_in_methods.hpp>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Parallel.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/randn.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <map>
#include <sstream>
#include <string>
#include <vector>

namespace {

std::map<int64_t, std::vector<at::Tensor>> read(const std::string& file) {
  std::map<int64_t, std::vector<at::Tensor>> result;
  std::ifstream stream(file);
  for (std::string line; std::getline(stream, line);) {
    std::istringstream numbers(line);
    int64_t tasks = 0;
    numbers >> tasks;
    std::vector<double> values(static_cast<size_t>(tasks * tasks));
    for (double& value : values) numbers >> value;
    if (!numbers) return {};
    result[tasks].push_back(at::from_blob(values.data(), {tasks, tasks}, at::kDouble).clone());
  }
  return result;
}

std::map<int64_t, std::vector<at::Tensor>> draw() {
  std::map<int64_t, std::vector<at::Tensor>> result;
  at::Generator generator = at::detail::createCPUGenerator(1);
  for (const int64_t tasks : {3, 8, 32})
    for (int i = 0; i < 40; ++i) {
      const at::Tensor g = at::randn({tasks, 3 * tasks}, generator, at::kDouble);
      result[tasks].push_back(g.mm(g.t()));
    }
  return result;
}

/// The median over matrices of the fastest of five calls in a row.
double microseconds(const htl::AnyWeighting& method, const std::vector<at::Tensor>& matrices) {
  std::vector<double> times;
  for (const at::Tensor& matrix : matrices) {
    const int64_t tasks = matrix.size(0);
    htl::TaskGramian gramian{.matrix = matrix, .cores = {tasks - 1}, .losses = at::ones({tasks}, at::kDouble), .generator = at::detail::createCPUGenerator(1)};
    double best = 1e30;
    for (int call = 0; call < 5; ++call) {
      htl::AnyWeighting::State memory = method.initial_state();
      const auto start = std::chrono::steady_clock::now();
      const at::Tensor weights = method.weights(gramian, memory);
      best = std::min(best, std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start).count());
      if (!weights.defined()) return -1.0;
    }
    times.push_back(best);
  }
  std::nth_element(times.begin(), times.begin() + static_cast<std::ptrdiff_t>(times.size() / 2), times.end());
  return times[times.size() / 2];
}

}  // namespace

int main(int argc, char** argv) {
  at::set_num_threads(1);
  std::map<int64_t, std::vector<at::Tensor>> matrices = draw();
  std::vector<std::string> texts = {"sum",          "mean",        "constant",          "core_task", "pcgrad",      "gradvac", "mgda",
                                    "cagrad:c=0.5", "imtl_g",      "nash_mtl",          "fairgrad",  "aligned_mtl", "upgrad",  "dualproj",
                                    "config",       "metabalance", "pe_ltr:bound=0.01", "sdmgrad",   "modo",        "krum",    "gradnorm",
                                    "random",       "famo",        "cr_mogm:inner=mgda"};
  for (int i = 1; i < argc; ++i) {
    const std::string option = argv[i];
    if (option == "--matrices" && i + 1 < argc) {
      matrices = read(argv[++i]);
      if (matrices.empty()) {
        std::fprintf(stderr, "weights_cost: expected lines of T and T² numbers in %s\n", argv[i]);
        return 1;
      }
    } else if (option == "--methods") {
      texts.assign(argv + i + 1, argv + argc);
      break;
    } else {
      std::fprintf(stderr, "weights_cost: unknown option %s\n", argv[i]);
      return 1;
    }
  }
  const htl::MethodRegistry methods = htl::built_in_methods();
  for (const std::string& text : texts) {
    for (const auto& [tasks, of_size] : matrices) {
      htl::Spec method = htl::parse_spec(text);
      if (text == "constant") method.options = {{"weights", std::vector<double>(static_cast<size_t>(tasks), 1.0)}};
      std::printf("%s %d %.3f\n", text.c_str(), static_cast<int>(tasks), microseconds(methods.make(method), of_size));
    }
  }
  return 0;
}
