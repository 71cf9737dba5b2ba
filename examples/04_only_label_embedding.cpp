// SPDX-License-Identifier: Apache-2.0
// Only label-embedding transfer: the second head of a user's own net reads what the first one predicts, as an embedding of the label.
#include <htl/metrics/auc.hpp>
#include <htl/transfer/label_embedding.hpp>

#include <torch/torch.h>

#include <cstdio>
#include <tuple>

struct TwoHeadsImpl : torch::nn::Module {
  explicit TwoHeadsImpl(bool has_transfer) : transfer(has_transfer) {}
  // [transfer]
  /// The logits of click and purchase.
  std::tuple<at::Tensor, at::Tensor> forward(const at::Tensor& user, const at::Tensor& offer) {
    const at::Tensor click_logit = click->forward(user);
    at::Tensor known = label->forward(click_logit.detach());  // in training a sample, drawn from the prediction; detached, as purchase must not train click
    if (!transfer) known = torch::zeros_like(known);
    return {click_logit, purchase->forward(torch::cat({offer, known}, 1))};
  }
  // [transfer]
  bool transfer;
  torch::nn::Sequential click = register_module("click", torch::nn::Sequential(torch::nn::Linear(8, 32), torch::nn::ReLU(), torch::nn::Linear(32, 1)));
  htl::LabelEmbedding label = register_module("label", htl::LabelEmbedding(htl::LabelEmbeddingOptions(/*classes=*/2, /*dim=*/8)));
  torch::nn::Sequential purchase =
      register_module("purchase", torch::nn::Sequential(torch::nn::Linear(4 + 8, 32), torch::nn::ReLU(), torch::nn::Linear(32, 1)));
};
TORCH_MODULE(TwoHeads);

struct Rows {
  at::Tensor user, offer, click, purchase;
};

/// The user decides on the click; of those who clicked, the offer decides who buys.
Rows draw(int64_t rows) {
  const at::Tensor user = torch::randn({rows, 8}), offer = torch::randn({rows, 4});
  const at::Tensor click = torch::rand({rows}).lt((2 * user.sum(1)).sigmoid()).to(torch::kFloat);
  return {user, offer, click, click * torch::rand({rows}).lt(offer.sum(1).sigmoid())};
}

double purchase_auc(bool transfer) {
  torch::manual_seed(1);
  TwoHeads net(transfer);
  torch::optim::Adam optimizer(net->parameters(), 5e-3);
  for (int step = 0; step < 400; ++step) {
    const Rows rows = draw(256);
    optimizer.zero_grad();
    const auto [click, purchase] = net(rows.user, rows.offer);
    const at::Tensor loss =
        torch::binary_cross_entropy_with_logits(click.squeeze(1), rows.click) + torch::binary_cross_entropy_with_logits(purchase.squeeze(1), rows.purchase);
    loss.backward();
    optimizer.step();
  }
  net->eval();  // the mean of the samples instead of a sample: deterministic
  const torch::NoGradGuard no_grad;
  const Rows test = draw(10'000);
  const at::Tensor logits = std::get<1>(net(test.user, test.offer));
  if (!torch::equal(logits, std::get<1>(net(test.user, test.offer)))) std::printf("evaluation is not deterministic\n");
  htl::Auc auc;
  auc.add(logits.squeeze(1), {test.purchase});
  return auc.value();
}

int main() {
  const double with = purchase_auc(true), without = purchase_auc(false);
  std::printf("purchase AUC: %s 0.85 with the label embedding of click, %s 0.80 without\n", with > 0.85 ? "above" : "below",
              without < 0.80 ? "below" : "above");
  return 0;
}
