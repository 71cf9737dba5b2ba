// SPDX-License-Identifier: Apache-2.0
// Only the row optimizer, on tables of the user's own: a step costs what the batch touches, however many rows there are.
#include <htl/embedding/lookup.hpp>
#include <htl/optim/row_adagrad.hpp>

#include <torch/torch.h>

#include <cstdio>

int main() {
  torch::manual_seed(1);
  constexpr int64_t users = 1'000'000, items = 500, dim = 8, active = 2'000;
  torch::nn::Embedding user_embedding(users, dim), item_embedding(items, dim);  // matrix factorisation: rating = user · item
  {
    const torch::NoGradGuard no_grad;
    user_embedding->weight.mul_(0.1);
    item_embedding->weight.mul_(0.1);
  }
  const at::Tensor before = user_embedding->weight.detach().clone();

  // [tables]
  const htl::RowTable user_table(user_embedding->weight, "users"), item_table(item_embedding->weight, "items");
  htl::RowAdagrad optimizer({user_table, item_table}, {.lr = 0.1});
  // [tables]

  const at::Tensor taste = torch::randn({active, 3}), style = torch::randn({items, 3});  // what the ratings come from
  double first = 0.0, last = 0.0;
  at::Tensor seen = torch::zeros({users}, torch::kBool);
  for (int step = 0; step < 400; ++step) {
    const at::Tensor user = torch::randint(active, {1024, 1}), item = torch::randint(items, {1024, 1});
    const at::Tensor rating = (taste.index_select(0, user.squeeze(1)) * style.index_select(0, item.squeeze(1))).sum(1);
    // [step]
    htl::Lookup of_user = htl::lookup(user_table, htl::FieldBatch::of(user)), of_item = htl::lookup(item_table, htl::FieldBatch::of(item));
    const at::Tensor loss = torch::mse_loss((of_user.values() * of_item.values()).sum(1), rating);
    loss.backward();   // leaves the touched rows' gradient in the table; .grad stays undefined
    optimizer.step();  // updates those rows and clears it: there is no zero_grad() to forget
    // [step]
    (step == 0 ? first : last) = loss.item<double>();
    seen.index_fill_(0, user.squeeze(1), true);
  }
  std::printf("the loss fell %s a fifth of what it was\n", last < first / 5 ? "below" : "not below");

  const at::Tensor changed = user_embedding->weight.detach().ne(before).any(1);
  std::printf("%s rows changed, of a million; .grad is %s\n", torch::equal(changed, seen) ? "only the looked-up" : "other",
              user_embedding->weight.grad().defined() ? "defined" : "undefined");

  int numbers = 0;  // all that the optimizer remembers, by name: for a checkpoint
  optimizer.fields([&](const char* name, at::Tensor& field) {
    std::printf("%s ", name);
    numbers += static_cast<int>(field.numel());
  });
  std::printf("hold %d numbers, one a row\n", numbers);
  return 0;
}
