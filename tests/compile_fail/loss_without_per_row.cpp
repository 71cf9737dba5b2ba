// SPDX-License-Identifier: Apache-2.0
// A loss that misspells a member is refused where it is given to a task, and the message names the concept and the member.
// expect: TaskLoss
// expect: loss\.per_row\(input\)
#include <htl/task/task.hpp>

struct MyLoss {
  std::string name() const { return "mine"; }
  int64_t output_width() const { return 1; }
  at::Tensor per_rows(const htl::LossInput& input) const { return input.output; }
  at::Tensor predict(const at::Tensor& output, const htl::Named<at::Tensor>&) const { return output; }
};

auto task = htl::regression("watch_time").loss(MyLoss{});
