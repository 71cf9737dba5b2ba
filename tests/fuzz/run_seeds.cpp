// SPDX-License-Identifier: Apache-2.0
// Runs a fuzz target without a fuzzer: every file of the given folders, and some of its beginnings.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

int main(int argc, char** argv) {
  size_t inputs = 0;
  for (int i = 1; i < argc; ++i)
    for (const auto& entry : std::filesystem::directory_iterator(argv[i])) {
      std::ifstream file(entry.path(), std::ios::binary);
      const std::vector<char> bytes{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
      const size_t step = std::max<size_t>(bytes.size() / 16, 1);
      for (size_t cut = 0; cut < bytes.size() + step; cut += step, ++inputs) {
        const size_t size = bytes.size() - std::min(cut, bytes.size());
        std::fprintf(stderr, "%s, the first %zu bytes\r", entry.path().c_str(), size);                    // what a crash leaves behind
        const std::vector<char> input(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(size));  // of its own, so that a read behind it shows
        (void)LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(input.data()), input.size());
      }
    }
  std::printf("\n%zu inputs\n", inputs);
  return inputs == 0 ? 1 : 0;
}
