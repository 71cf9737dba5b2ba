// SPDX-License-Identifier: Apache-2.0
// Gradient methods on the toy problem of the literature: two losses of two numbers, with steep valleys in which the plain mean stays. With a file's name it
// writes the paths, for scripts/plot_two_valleys.py.
#include "two_valleys.hpp"

#include <htl/weighting/built_in_methods.hpp>

#include <cstdio>
#include <fstream>
#include <string>

int main(int argc, char** argv) {
  const htl::MethodRegistry methods = htl::built_in_methods();
  std::ofstream paths;
  if (argc > 1) {
    paths.open(argv[1]);
    paths << "method,start,x,y\n";
  }
  for (const std::string text : {"mean", "pcgrad:order=ascending", "mgda", "cagrad:c=0.4", "imtl_g", "nash_mtl", "fairgrad", "aligned_mtl", "upgrad"}) {
    const htl::AnyWeighting method = methods.make(htl::parse_spec(text));
    int arrived = 0;
    for (size_t start = 0; start < two_valleys::starts.size(); ++start) {
      const auto path = two_valleys::descend(method, two_valleys::starts[start], 40'000, 2e-3, 50);
      arrived += path.back()[1] < -5.0 && two_valleys::pareto_distance(path.back()) < 1e-3;
      for (const auto& [x, y] : path)
        if (paths.is_open()) paths << method.name() << ',' << start << ',' << x << ',' << y << '\n';
    }
    std::printf("%-12s comes to the Pareto front from %d of 5 starts\n", method.name().c_str(), arrived);
  }
  return 0;
}
