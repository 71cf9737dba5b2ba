// SPDX-License-Identifier: Apache-2.0
#include "machine.hpp"

#include <htl/task/check.hpp>

#include <torch/types.h>

#include <sys/resource.h>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Context.h>

#include <chrono>
#include <fstream>

namespace htlnet {
namespace {

// LibTorch's switch: "highest" is MKL; "medium" lets oneDNN compute, which is exact on some processors and bfloat16 on others.
void use(const std::string& name) { at::globalContext().setFloat32MatmulPrecision(name == "mkl" ? "highest" : "medium"); }

/// A field of the first processor's entry in /proc/cpuinfo.
std::string cpu_field(const std::string& name) {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);)
    if (line.rfind(name, 0) == 0 && line.find(": ") != std::string::npos) return line.substr(line.find(": ") + 2);
  return "unknown";
}

bool is_intel() { return cpu_field("vendor_id") == "GenuineIntel"; }

struct Probe {
  double seconds = 0.0, error = 0.0;
};

Probe probe(const std::string& name, const torch::Tensor& a, const torch::Tensor& b, const torch::Tensor& exact) {
  use(name);
  Probe result;
  result.error = ((a.mm(b).to(torch::kDouble) - exact).norm() / exact.norm()).item<double>();
  for (int round = 0; round < 5; ++round) {
    const auto start = std::chrono::steady_clock::now();
    for (int i = 0; i < 4; ++i) a.mm(b);
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() / 4.0;
    if (round == 1 || (round > 1 && seconds < result.seconds)) result.seconds = seconds;
  }
  return result;
}

}  // namespace

MatrixBackend choose_matrix_backend(const std::string& wanted) {
  const torch::NoGradGuard without_graph;
  const auto generator = at::detail::createCPUGenerator(1);
  const torch::Tensor a = torch::randn({1024, 430}, generator), b = torch::randn({430, 384}, generator), exact = a.to(torch::kDouble).mm(b.to(torch::kDouble));
  const double flop = 2.0 * 1024 * 430 * 384;
  const Probe mkl = probe("mkl", a, b, exact), onednn = probe("onednn", a, b, exact);
  constexpr double float32_error = 2e-6;
  HTL_CHECK(wanted != "onednn" || onednn.error < float32_error, "htlnet: --matrix-backend onednn computes with a relative error of ", onednn.error,
            " on this processor, which is not float32; use auto or mkl");
  // Not by the times: two runs with one seed must give the same bits, whatever else the machine was doing at their starts
  const bool take_onednn = wanted == "onednn" || (wanted == "auto" && !is_intel() && onednn.error < float32_error);
  const Probe& taken = take_onednn ? onednn : mkl;
  const std::string name = take_onednn ? "onednn" : "mkl";
  use(name);
  return {name, flop / taken.seconds / 1e9, flop / (take_onednn ? mkl : onednn).seconds / 1e9, taken.error};
}

std::string cpu_model() { return cpu_field("model name"); }

double peak_memory_mb() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_maxrss) / 1024.0;
}

}  // namespace htlnet
