// SPDX-License-Identifier: Apache-2.0
// A gradient method chosen by a configuration: by its name and options as text, from the library's methods and one of your own.
#include <htl/gradient/backward.hpp>
#include <htl/weighting/built_in_methods.hpp>

#include <torch/torch.h>

#include <cstdio>
#include <string>
#include <vector>

// [own]
/// The tasks take turns: all of the step is one task's.
struct Turns {
  at::Tensor weights(const htl::TaskGramian& gramian) const {
    const at::Tensor result = at::zeros({gramian.tasks()}, gramian.matrix.options());
    result[gramian.step % gramian.tasks()].fill_(scale);
    return result;
  }
  double scale = 1.0;
};
// [own]

int main() {
  // [registry]
  htl::MethodRegistry methods = htl::built_in_methods();  // a value: nothing global
  methods.add("turns", [](htl::OptionReader& options) { return htl::AnyWeighting(Turns{options.number("scale", 1.0)}); });
  // [registry]

  const htl::TaskSet tasks{htl::binary("click"), htl::regression("watch_time"), htl::regression("revenue").core()};
  const at::Tensor signs = torch::tensor({{1.0, 1.0, -1.0}, {1.0, -2.0, 1.0}, {-1.0, 1.0, 3.0}});  // tasks that want opposite things
  for (const std::string text : {"sum", "core_task:gamma=0", "pcgrad:order=ascending", "cagrad:c=0.4,rescale=1", "cr_mogm:inner=mgda", "turns:scale=2"}) {
    torch::manual_seed(1);
    torch::nn::Linear bottom(3, 3);
    // [fork]
    htl::GradientFork<htl::AnyWeighting> fork(tasks, methods.make(htl::parse_spec(text)));  // "cagrad:c=0.4,rescale=1"
    // [fork]
    const std::vector<at::Tensor> views = fork->split(bottom->forward(torch::randn({64, 3})));
    htl::TaskLosses losses;
    for (int64_t t = 0; t < 3; ++t) losses.set(tasks[t].name(), (views[static_cast<size_t>(t)] * signs[t]).sum(1).mean());
    const htl::GradientReport report = htl::backward(losses, fork);
    const at::Tensor helped = report.gramian.mv(report.weights).gt(-1e-12).sum();  // tasks whose loss the step does not raise
    std::printf("%-24s leaves %d of 3 tasks unharmed\n", text.c_str(), static_cast<int>(helped.item<int64_t>()));
  }
  for (const char* wrong : {"cagrd", "cagrad:C=0.4", "cagrad:c=much"}) {
    try {
      methods.make(htl::parse_spec(wrong));
    } catch (const c10::Error& error) {
      std::printf("%s\n", std::string(error.what_without_backtrace()).substr(0, 80).c_str());
    }
  }
  return 0;
}
