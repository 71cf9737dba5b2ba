// SPDX-License-Identifier: Apache-2.0
// htl_safetensors_copy IN OUT: reads a file, writes it anew, and prints a line "NAME [SHAPE] NUMBER …" for each tensor that it read.
#include <htl/io/safetensors.hpp>

#include <ATen/ops/flatten.h>

#include <cstdio>

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  try {
    const htl::TensorFile content = htl::load_safetensors(argv[1]);
    htl::save_safetensors(argv[2], content);
    for (const auto& [name, tensor] : content.tensors) {
      std::printf("%s %s", name.c_str(), htl::shape_of(tensor).c_str());
      const at::Tensor numbers = tensor.to(at::kDouble).flatten();
      for (int64_t i = 0; i < numbers.numel(); ++i) std::printf(" %.17g", numbers.const_data_ptr<double>()[i]);
      std::puts("");
    }
  } catch (const c10::Error& error) {
    std::fprintf(stderr, "%s\n", error.what_without_backtrace());
    return 1;
  }
  return 0;
}
