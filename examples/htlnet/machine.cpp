// SPDX-License-Identifier: Apache-2.0
#include "machine.hpp"

#include <htl/task/check.hpp>

#include <torch/types.h>
#include <torch/version.h>

#include <sys/resource.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Context.h>
#if TORCH_VERSION_MAJOR > 2 || TORCH_VERSION_MINOR >= 9
#include <c10/core/CachingDeviceAllocator.h>
#endif

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <limits>
#include <set>

namespace htlnet {
namespace {

// LibTorch's switch: "highest" is MKL; "medium" lets oneDNN compute, which is exact on some processors and bfloat16 on others.
void use(const std::string& name) { at::globalContext().setFloat32MatmulPrecision(name == "mkl" ? "highest" : "medium"); }

bool is_intel() { return proc_field("/proc/cpuinfo", "vendor_id") == "GenuineIntel"; }

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

void keep_freed_memory() {
#ifdef __GLIBC__
  mallopt(M_MMAP_THRESHOLD, 32 << 20);  // the most that it takes; tables are larger and go back to the system
  mallopt(M_TRIM_THRESHOLD, 1 << 30);
#endif
}

void return_freed_memory() {
#ifdef __GLIBC__
  malloc_trim(0);
#endif
}

std::string proc_field(const std::filesystem::path& path, const std::string& name) {
  std::ifstream info(path);
  for (std::string line; std::getline(info, line);)
    if (line.rfind(name, 0) == 0 && line.find(':') != std::string::npos) {
      const size_t begin = line.find_first_not_of(" \t", line.find(':') + 1);
      return begin == std::string::npos ? "" : line.substr(begin);
    }
  return "unknown";
}

double available_memory() {
  double free = std::numeric_limits<double>::infinity();
  const auto at_most = [&](double limit) { free = std::min(free, std::max(0.0, limit)); };
  const auto number = [](const std::filesystem::path& path) {
    std::ifstream file(path);
    double value = 0.0;
    return file >> value ? value : std::numeric_limits<double>::infinity();  // "max" is no limit
  };
  const auto kilobytes = [](const std::string& text) { return std::strtod(text.c_str(), nullptr) * 1024.0; };
  if (const double machine = kilobytes(proc_field("/proc/meminfo", "MemAvailable")); machine > 0.0) at_most(machine);
  const std::filesystem::path groups = "/sys/fs/cgroup";
  for (const auto& [limit, used, file_cache] : {std::array{"memory.max", "memory.current", "memory.stat"},
                                                std::array{"memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"}}) {
    const double most = number(groups / limit), taken = number(groups / used);
    if (!std::isfinite(most) || !std::isfinite(taken)) continue;
    std::ifstream statistics(groups / file_cache);
    double cached = 0.0;  // files that give way
    for (std::string name; statistics >> name;) {
      double value = 0.0;
      statistics >> value;
      if (name == "inactive_file") cached = value;
    }
    at_most(most - taken + cached);
  }
  rlimit limit{};
  if (getrlimit(RLIMIT_AS, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY)
    at_most(static_cast<double>(limit.rlim_cur) - kilobytes(proc_field("/proc/self/status", "VmSize")));
  return free;
}

std::string cpu_model() { return proc_field("/proc/cpuinfo", "model name"); }

std::string gpu_model() {
  std::set<std::string> models;
  std::error_code error;
  for (std::filesystem::directory_iterator gpu("/proc/driver/nvidia/gpus", error), end; !error && gpu != end; gpu.increment(error))
    models.insert(proc_field(gpu->path() / "information", "Model"));
  std::string text;
  for (const std::string& model : models) text += (text.empty() ? "" : " or ") + model;
  return text.empty() ? "unknown" : text;
}

std::optional<double> peak_device_memory_mb() {
#if TORCH_VERSION_MAJOR > 2 || TORCH_VERSION_MINOR >= 9  // before, only CUDA's own headers have it
  if (auto* allocator = dynamic_cast<c10::DeviceAllocator*>(c10::GetAllocator(torch::kCUDA)); allocator && allocator->initialized()) {
    const auto bytes = allocator->getDeviceStats(0).allocated_bytes[static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE)];
    return static_cast<double>(bytes.peak) / 1048576.0;
  }
#endif
  return std::nullopt;
}

double peak_memory_mb() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_maxrss) / 1024.0;
}

}  // namespace htlnet
