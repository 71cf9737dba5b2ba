// SPDX-License-Identifier: Apache-2.0
/// @file io_test.cpp
/// @brief Files: whole or absent, read strictly, exchanged with other programs; damaged ones give sentences.

#include <htl/io/feature_map_json.hpp>
#include <htl/io/mapped_safetensors.hpp>
#include <htl/io/module_state.hpp>
#include <htl/io/task_set_json.hpp>

#include <golden/safetensors.hpp>
#include <support/seeded.hpp>
#include <support/temporary_folder.hpp>

#include <ATen/ops/empty.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/scalar_tensor.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <torch/nn/modules/batchnorm.h>
#include <torch/nn/modules/container/sequential.h>
#include <torch/nn/modules/embedding.h>
#include <torch/nn/modules/linear.h>

#include <csignal>
#include <filesystem>
#include <random>
#include <string>
#include <vector>

namespace {

namespace fs = std::filesystem;

/// A fresh directory that is removed at the end.
class Files : public testing::Test {
 protected:
  fs::path path(const std::string& name) const { return folder_.path(name); }
  size_t entries() const { return static_cast<size_t>(std::distance(fs::directory_iterator(path("")), fs::directory_iterator())); }
  htl::test::TemporaryFolder folder_;
};
using AtomicFile = Files;
using Safetensors = Files;
using ModuleState = Files;

template <class Call>
std::string sentence(Call&& call) {
  try {
    call();
  } catch (const c10::Error& error) {
    return error.what_without_backtrace();
  }
  return "no error";
}
bool same(const at::Tensor& a, const at::Tensor& b) {
  return a.sizes() == b.sizes() && a.scalar_type() == b.scalar_type() && a.device() == b.device() &&
         (a.numel() == 0 || std::memcmp(a.contiguous().const_data_ptr(), b.contiguous().const_data_ptr(), a.nbytes()) == 0);
}

TEST(Json, ALongListIsReadInTheTimeOfItsLength) {
  std::string text = "[{}";
  for (int i = 1; i < 200'000; ++i) text += ",{}";
  EXPECT_EQ(htl::parse_json(text + "]", "a list").size(), 200'000u);  // once with a pass over the list for each element
}

TEST_F(AtomicFile, IsWholeOrUntouched) {
  htl::write_atomically(path("a"), "old");
  EXPECT_EQ(htl::read_file(path("a")), "old");
  {
    htl::AtomicFile file(path("a"));
    file.write("new and unfinished", 18);
    EXPECT_EQ(htl::read_file(path("a")), "old") << "until commit() the old file stays";
    EXPECT_EQ(entries(), 2U);
  }
  EXPECT_EQ(htl::read_file(path("a")), "old");
  EXPECT_EQ(entries(), 1U) << "what was not committed is removed";
  htl::AtomicFile one(path("a")), other(path("a"));  // two writers at once: the later commit wins, neither mixes with the other
  one.write("one", 3);
  other.write("other", 5);
  other.commit();
  one.commit();
  EXPECT_EQ(htl::read_file(path("a")), "one");
  EXPECT_EQ(sentence([&] { one.write("x", 1); }).find("htl::AtomicFile: \"" + path("a").string() + "\" is committed already"), 0U);
  const std::string zeros("\0\n\0", 3);
  htl::write_atomically(path("zeros"), zeros);
  EXPECT_EQ(htl::read_file(path("zeros")), zeros);
  EXPECT_EQ(entries(), 2U);
}

TEST_F(AtomicFile, FollowsLinksAndNamesWhatIsWrong) {
  htl::write_atomically(path("real"), "1");
  fs::create_symlink(path("real"), path("link"));
  htl::write_atomically(path("link"), "2");
  EXPECT_TRUE(fs::is_symlink(path("link")));
  EXPECT_EQ(htl::read_file(path("real")), "2");
  EXPECT_NE(sentence([&] { htl::write_atomically(path("no") / "a", "x"); }).find("No such file or directory"), std::string::npos);
  fs::create_directory(path("folder"));
  EXPECT_NE(sentence([&] { htl::write_atomically(path("folder"), "x"); }).find("htl::AtomicFile: can't write \"" + path("folder").string()), std::string::npos);
  EXPECT_EQ(entries(), 3U) << "nothing is left behind";
  EXPECT_EQ(sentence([&] { htl::read_file(path("none")); }), "htl::read_file: expected a file \"" + path("none").string() + "\", found nothing");
  EXPECT_EQ(sentence([&] { htl::read_file(path("folder")); }), "htl::read_file: expected a file \"" + path("folder").string() + "\", found something else");
}

TEST_F(AtomicFile, KeepsTheOldFileWhenTheDiskIsFull) {
  htl::write_atomically(path("a"), "old");
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  rlimit tight = before;
  tight.rlim_cur = 1000;
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &tight), 0);
  const std::string told = sentence([&] { htl::write_atomically(path("a"), std::string(5000, 'x')); });
  ::setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, handler);
  EXPECT_NE(told.find("File too large"), std::string::npos) << told;
  EXPECT_EQ(htl::read_file(path("a")), "old");
  EXPECT_EQ(entries(), 1U);
}

TEST_F(Safetensors, ReadsWhatPythonWrote) {
  const auto& bytes = htl::golden::safetensors_file;
  const htl::TensorFile file = htl::parse_safetensors({reinterpret_cast<const char*>(bytes.data()), bytes.size()});
  EXPECT_EQ(file.metadata.size(), 2U);
  EXPECT_EQ(file.metadata["note"], "größer");
  ASSERT_EQ(file.tensors.size(), 10U);
  EXPECT_TRUE(same(file.tensors["f64"], at::tensor({1.5, -2.25, 0.1, 1e300}).view({2, 2})));
  EXPECT_TRUE(same(file.tensors["f32"], at::tensor({0.1F, -3.0F, 3e38F})));
  EXPECT_TRUE(same(file.tensors["f16"], at::tensor({1.0F, -0.5F}).view({2, 1}).to(at::kHalf)));
  EXPECT_TRUE(same(file.tensors["bf16"], at::tensor({1.5F, -3.0F}).to(at::kBFloat16)));
  EXPECT_TRUE(same(file.tensors["i64"], at::tensor({-(int64_t{1} << 62), int64_t{7}})));
  EXPECT_TRUE(same(file.tensors["i32"], at::tensor({-5}, at::kInt).view({1, 1, 1})));
  EXPECT_TRUE(same(file.tensors["u8"], at::tensor({0, 255, 3}, at::kByte)));
  EXPECT_TRUE(same(file.tensors["flag"], at::tensor({1, 0, 1}).to(at::kBool)));
  EXPECT_TRUE(same(file.tensors["scalar"], at::scalar_tensor(2.5, at::kDouble)));
  EXPECT_TRUE(same(file.tensors["empty"], at::empty({0, 4})));
}

TEST_F(Safetensors, GivesBackEveryTypeShapeAndBit) {
  htl::TensorFile file;
  const at::Tensor base = at::randn({6, 5}, at::kDouble) * 100;
  int n = 0;
  for (const auto& type : htl::detail::tensor_types)
    for (const at::Tensor& t : {base, base.t(), base.slice(0, 1, 6, 2), base[0][0], base.slice(0, 3, 3), base.view({1, 6, 1, 5})}) {
      const at::Tensor source = type.type == at::kBool ? t > 0 : type.type == at::kByte ? t.abs() : t;
      file.tensors.set("tensor." + std::to_string(n++), source.to(type.type));
    }
  file.tensors.set("nan", at::tensor({std::nan(""), INFINITY, -0.0}, at::kDouble));
  file.tensors.set("a \"quoted\" größe\n", at::ones({1}).requires_grad_());
  file.metadata.set("step", "17").set("", "empty key").set("text", std::string("zero \0 inside", 13));
  htl::save_safetensors(path("a"), file);
  const htl::TensorFile read = htl::load_safetensors(path("a"));
  ASSERT_EQ(read.tensors.size(), file.tensors.size());
  for (const auto& [name, tensor] : file.tensors) EXPECT_TRUE(same(read.tensors[name], tensor)) << name;
  ASSERT_EQ(read.metadata.size(), 3U);
  for (const auto& [name, text] : file.metadata) EXPECT_EQ(read.metadata[name], text);
  const std::string bytes = htl::read_file(path("a"));
  uint64_t header = 0;
  std::memcpy(&header, bytes.data(), 8);
  EXPECT_EQ(header % 8, 0U) << "data begin aligned";
  htl::save_safetensors(path("b"), read);
  htl::save_safetensors(path("c"), htl::load_safetensors(path("b")));
  EXPECT_EQ(htl::read_file(path("b")), htl::read_file(path("c"))) << "the same content gives the same bytes";
  htl::save_safetensors(path("none"), {});
  EXPECT_TRUE(htl::load_safetensors(path("none")).tensors.empty());
}

TEST_F(Safetensors, RefusesWhatTheFormatCannotHold) {
  const auto refuse = [&](const std::string& name, const at::Tensor& tensor) {
    return sentence([&] { htl::save_safetensors(path("a"), {htl::Named<at::Tensor>().set(name, tensor), {}}); });
  };
  EXPECT_EQ(refuse("x", {}), "htl::save_safetensors: tensor \"x\" is undefined; leave it out");
  EXPECT_EQ(refuse("__metadata__", at::ones({1})), "htl::save_safetensors: the name __metadata__ is reserved by the format; rename the tensor");
  EXPECT_EQ(refuse("x", at::ones({1}, at::kComplexFloat)), "htl::save_safetensors: the format has no element type for tensor \"x\" of type ComplexFloat");
  EXPECT_EQ(refuse("x", at::ones({2, 2}).to_sparse()), "htl::save_safetensors: expected a dense tensor \"x\", got layout Sparse");
  EXPECT_EQ(refuse("\xff", at::ones({1})).find("htl::save_safetensors: names and metadata must be UTF-8"), 0U);
  EXPECT_EQ(entries(), 0U);
}

std::string bytes_of(const std::string& header, const std::string& data, uint64_t length) {
  std::string bytes(8, '\0');
  std::memcpy(bytes.data(), &length, 8);
  return bytes + header + data;
}

TEST_F(Safetensors, TellsWhatIsWrongWithADamagedFile) {
  const std::string four(16, 'x');
  const auto told = [](const std::string& header, const std::string& data) {
    return sentence([&] { htl::parse_safetensors(bytes_of(header, data, header.size()), "f"); });
  };
  const std::string good = R"({"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}})";
  EXPECT_EQ(told(good, four), "no error");
  EXPECT_EQ(told(good + "   ", four), "no error");
  EXPECT_EQ(sentence([] { htl::parse_safetensors("abc", "f"); }), "htl::load_safetensors: f has 3 bytes; expected at least the 8 of the header's length");
  EXPECT_EQ(sentence([&] { htl::parse_safetensors(bytes_of(good, four, 1000), "f"); }),
            "htl::load_safetensors: f announces a header of 1000 bytes and has 73 left; it is truncated or not a safetensors file");
  EXPECT_EQ(sentence([&] { htl::parse_safetensors(bytes_of(good, four, ~uint64_t{0}), "f"); }),
            "htl::load_safetensors: f announces a header of "
            "18446744073709551615 bytes; at most 100000000 are allowed; it is not a safetensors file");
  EXPECT_EQ(told("[]", ""), "htl::load_safetensors: f: expected a header that begins with {; it is not a safetensors file");
  EXPECT_EQ(told("{\"a\":", "").find("htl::parse_json: the header of f is not valid JSON:"), 0U);
  EXPECT_EQ(told(good, "short"),
            "htl::load_safetensors: f: tensor \"a\": the offsets [0, 16) are outside of the 5 bytes of data; the file is truncated or damaged");
  EXPECT_EQ(told(good, four + "more"), "htl::load_safetensors: f: the last 4 bytes belong to no tensor");
  EXPECT_EQ(told(R"({"a":{"dtype":"F33","shape":[4],"data_offsets":[0,16]}})", four),
            "htl::load_safetensors: f: tensor \"a\" has the unknown element type \"F33\"; "
            "known: \"F64\", \"F32\", \"F16\", \"BF16\", \"I64\", \"I32\", \"I16\", \"I8\", \"U8\", \"BOOL\"");
  EXPECT_EQ(told(R"({"a":{"dtype":"F32","shape":[5],"data_offsets":[0,16]}})", four),
            "htl::load_safetensors: f: tensor \"a\": F32 of shape [5] takes 20 bytes, but the offsets span 16");
  EXPECT_EQ(told(R"({"a":{"dtype":"F32","shape":[4],"data_offsets":[16,0]}})", four),
            "htl::load_safetensors: f: tensor \"a\": the offsets [16, 0) are outside of the 16 bytes of data; the file is truncated or damaged");
  EXPECT_EQ(told(R"({"a":{"dtype":"F32","shape":[-4],"data_offsets":[0,16]}})", four),
            "htl::load_safetensors: f: tensor \"a\": expected whole sizes ≥ 0 in the shape, got -4");
  EXPECT_EQ(told(R"({"a":{"dtype":"F32","shape":[4.0],"data_offsets":[0,16]}})", four),
            "htl::load_safetensors: f: tensor \"a\": expected whole sizes ≥ 0 in the shape, got 4.0");
  EXPECT_EQ(told(R"({"a":{"dtype":"F32","shape":[4294967296,4294967296,4294967296],"data_offsets":[0,16]}})", four),
            "htl::load_safetensors: f: tensor \"a\" has an impossible shape [4294967296,4294967296,4294967296]")
      << "the product overflows to 0";
  EXPECT_EQ(told(R"({"a":{"dtype":"F32","shape":[0,4611686018427387904,16],"data_offsets":[0,0]}})", ""),
            "htl::load_safetensors: f: tensor \"a\" has an impossible shape [0,4611686018427387904,16]");
  EXPECT_EQ(told(R"({"a":{"dtype":"F32","shape":[4],"data_offsets":[0]}})", four),
            "htl::load_safetensors: f: tensor \"a\": expected data_offsets [begin, end], got [0]");
  EXPECT_EQ(told(R"({"a":{"dtype":"F32","shape":[4]}})", four),
            "htl::load_safetensors: f: tensor \"a\": expected the key \"data_offsets\", which is not there");
  EXPECT_EQ(told(R"({"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16],"extra":1}})", four),
            "htl::load_safetensors: f: tensor \"a\": unknown key \"extra\"; did you mean \"dtype\"?");
  EXPECT_EQ(told(R"({"a":7})", ""), "htl::load_safetensors: f: tensor \"a\": expected an object, got number");
  EXPECT_EQ(told(R"({"a":{"dtype":"U8","shape":[16],"data_offsets":[0,16]},"b":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}})", four),
            "htl::load_safetensors: f: the tensors \"a\" and \"b\" overlap");
  EXPECT_EQ(told(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[8],"data_offsets":[8,16]}})", four),
            "htl::load_safetensors: f: 4 bytes before tensor \"b\" belong to none");
  EXPECT_EQ(told(R"({"a":{"dtype":"U8","shape":[16],"data_offsets":[0,16]},"a":{"dtype":"U8","shape":[16],"data_offsets":[0,16]}})", four),
            "htl::parse_json: the header of f has the key \"a\" twice in one object");
  EXPECT_EQ(told(R"({"__metadata__":{"step":1}})", ""), "htl::load_safetensors: f: expected a text as metadata \"step\", got number");
  EXPECT_EQ(told(R"({"__metadata__":[]})", ""), "htl::load_safetensors: f: expected an object as __metadata__, got array");
  EXPECT_EQ(told(R"({"a":{"dtype":"BOOL","shape":[16],"data_offsets":[0,16]}})", four),
            "htl::load_safetensors: f: tensor \"a\" is BOOL but holds bytes other than 0 and 1");
  EXPECT_EQ(told("{\"a\":" + std::string(100000, '['), "").find("htl::parse_json: the header of f is nested more than 4 deep"), 0U);
  EXPECT_EQ(sentence([&] { htl::load_safetensors(path("none")); }), "htl::load_safetensors: expected a file \"" + path("none").string() + "\", found nothing");
}

TEST_F(Safetensors, SurvivesEveryTruncationAndRandomDamage) {
  const auto& golden = htl::golden::safetensors_file;
  const std::string good(reinterpret_cast<const char*>(golden.data()), golden.size());
  for (size_t length = 0; length < good.size(); ++length)
    EXPECT_THROW(htl::parse_safetensors(std::string_view(good).substr(0, length)), c10::ValueError) << length;
  std::mt19937_64 random(1);
  int refused = 0;
  for (int trial = 0; trial < 20000; ++trial) {
    std::string bad = good;
    for (uint64_t edits = 1 + random() % 3; edits > 0; --edits) {
      const size_t at = random() % bad.size();
      switch (random() % 3) {
        case 0:
          bad[at] = static_cast<char>(random());
          break;
        case 1:
          bad.erase(at, 1 + random() % 4);
          break;
        default:
          bad.insert(at, 1, static_cast<char>(random()));
          break;
      }
      if (bad.empty()) bad = "x";
    }
    try {
      htl::parse_safetensors(bad);
    } catch (const c10::ValueError&) {
      ++refused;
    }
  }
  EXPECT_GT(refused, 10000);
}

struct NetImpl : torch::nn::Cloneable<NetImpl> {
  explicit NetImpl(int64_t width, bool extra = false) : width_(width), extra_(extra) { reset(); }
  void reset() override {
    table = register_module("table", torch::nn::Embedding(7, width_));
    tower = register_module("tower", torch::nn::Sequential(torch::nn::Linear(width_, 3), torch::nn::BatchNorm1d(3)));
    counter = register_buffer("counter", at::tensor({int64_t{1} << 60}));
    if (extra_) bias = register_parameter("bias", at::ones({3}));
  }
  int64_t width_;
  bool extra_;
  torch::nn::Embedding table{nullptr};
  torch::nn::Sequential tower{nullptr};
  at::Tensor counter, bias;
};
TORCH_MODULE(Net);

TEST_F(ModuleState, RoundTripsEveryParameterAndBuffer) {
  Net net(4), other(4);
  net->counter.add_(3);
  net->tower->forward(at::randn({8, 4}));  // moves the batch norm's statistics
  htl::save_module(path("net"), *net, htl::Named<std::string>().set("epoch", "2"));
  const at::Tensor handle = other->table->weight;
  EXPECT_EQ(htl::load_module(path("net"), *other)["epoch"], "2");
  const auto expected = htl::module_state(*net), actual = htl::module_state(*other);
  EXPECT_EQ(actual.names(), (std::vector<std::string>{"table.weight", "tower.0.weight", "tower.0.bias", "tower.1.weight", "tower.1.bias", "counter",
                                                      "tower.1.running_mean", "tower.1.running_var", "tower.1.num_batches_tracked"}));
  for (const auto& [name, tensor] : expected) EXPECT_TRUE(same(actual[name], tensor)) << name;
  EXPECT_TRUE(handle.is_same(other->table->weight)) << "in place: optimizers keep their handles";
  EXPECT_TRUE(other->table->weight.requires_grad());
  const at::Tensor x = at::randn({3, 4});
  net->eval();
  other->eval();
  EXPECT_TRUE(same(net->tower->forward(x), other->tower->forward(x)));
}

TEST_F(ModuleState, ListsEveryMisfitAndChangesNothing) {
  Net net(4), wide(5, true), doubled(4);
  htl::save_module(path("net"), *net);
  const auto before = htl::module_state(*wide)["table.weight"].clone();
  const std::string told = sentence([&] { htl::load_module(path("net"), *wide); });
  EXPECT_EQ(told,
            "htl::load_module: \"" + path("net").string() +
                "\": htl::load_module_state: expected 10 tensors; missing: \"bias\"; "
                "different: "
                "\"table.weight\" is [7, 4] Float, expected [7, 5] Float, \"tower.0.weight\" is [3, 4] Float, expected [3, 5] Float; nothing was changed; "
                "build the module with the options that the weights were made with");
  EXPECT_TRUE(same(wide->table->weight, before));
  doubled->table->to(at::kDouble);
  EXPECT_NE(sentence([&] { htl::load_module(path("net"), *doubled); }).find("\"table.weight\" is [7, 4] Float, expected [7, 4] Double"), std::string::npos);
  htl::save_module(path("wide"), *Net(4, true));
  EXPECT_NE(sentence([&] { htl::load_module(path("wide"), *net); }).find("; not expected: \"bias\"; nothing was changed"), std::string::npos);
  htl::Named<at::Tensor> many = htl::module_state(*net);
  for (int i = 10; i < 40; ++i) many.set("extra." + std::to_string(i), at::ones({1}));
  EXPECT_NE(sentence([&] { htl::load_module_state(*net, many); }).find("\"extra.21\" and 18 more"), std::string::npos);
}

std::string text_of(const htl::TaskSet& tasks) { return htl::to_json(tasks).dump(); }

TEST(TaskSetJson, RebuildsEverythingThatTasksSay) {
  const htl::TaskSet full{htl::binary("click").weight(0.1).mask_column("seen").weight_column("w"),
                          htl::multiclass("reason", 5).after().loss(htl::loss_by_name("softmax_cross_entropy", {{"classes", 5}}), 0.5),
                          htl::regression("watch_time")
                              .after("reason", "click")
                              .core()
                              .observed_when("click")
                              .context({"duration", "propensity"})
                              .transform(htl::ZScoreTransform{1.0 / 3.0, 0.1})
                              .loss(htl::loss_by_name("huber", {{"delta", 0.3}}), 2.0)
                              .loss(htl::loss_by_name("squared")),
                          htl::regression("later").after("watch_time").core().transform(htl::z_score())};
  const htl::TaskSet read = htl::task_set_from_json(htl::parse_json(text_of(full), "tasks"));
  EXPECT_EQ(text_of(read), text_of(full));
  ASSERT_EQ(read.size(), 4);
  EXPECT_EQ(read["watch_time"].transform().statistics()["mean"].number(), 1.0 / 3.0) << "every bit";
  EXPECT_EQ(read["watch_time"].losses()[0].loss.parameters()["delta"].number(), 0.3);
  EXPECT_EQ(read["watch_time"].losses()[0].weight, 2.0);
  EXPECT_EQ(read["watch_time"].losses().size(), 2U);
  EXPECT_EQ(read["watch_time"].observed_when(), "click");
  EXPECT_EQ(read["watch_time"].context(), (std::vector<std::string>{"duration", "propensity"}));
  EXPECT_EQ(read["reason"].classes(), 5);
  EXPECT_EQ(read["click"].mask_column(), "seen");
  EXPECT_EQ(read["click"].weight_column(), "w");
  EXPECT_EQ(read["click"].weight(), 0.1);
  EXPECT_FALSE(read["later"].transform().is_fitted());
  EXPECT_EQ(read.cores(), (std::vector<int64_t>{2, 3}));
  for (int64_t t = 0; t < 4; ++t) EXPECT_EQ(read.parents(t), full.parents(t));
  const htl::TaskSet chain{htl::binary("a"), htl::binary("b"), htl::regression("c").transform(htl::log1p())};
  const htl::TaskSet chain_read = htl::task_set_from_json(htl::parse_json(text_of(chain), "tasks"));
  EXPECT_EQ(chain_read.parents(2), (std::vector<int64_t>{0, 1})) << "without any after() it stays the full chain";
  EXPECT_FALSE(chain_read["a"].parents().has_value());
}

TEST(TaskSetJson, KeepsTransformsWithinTransformsAndCalibrators) {
  const at::Tensor values = at::rand({300}, at::kDouble) * 30, events = values.gt(12).to(at::kDouble);
  htl::Labels labels = htl::Labels().set("click", {events}).set("watch_time", {values}).set("spend", {values});
  labels.set("like", {events}).set("buy", {events});
  labels.context.set("duration", at::rand({300}, at::kDouble) * 60);
  const htl::TaskSet unfitted{
      htl::binary("click").calibration(htl::IsotonicCalibration{}), htl::binary("like").calibration(htl::PriorCorrection(.1)),
      htl::binary("buy").calibration(htl::PlattScaling{}),
      htl::regression("watch_time").transform(htl::grouped(htl::chained(htl::log1p(), htl::z_score()), "duration", 3)).calibration(htl::ScaleCalibration{}),
      htl::regression("spend").transform(htl::clipped(htl::smeared(htl::quantile_ranks(11).fitted({values}), values / 30, {values}), .9))};
  EXPECT_EQ(text_of(htl::task_set_from_json(htl::parse_json(text_of(unfitted), "tasks"))), text_of(unfitted));
  const htl::TaskSet fitted = unfitted.fitted(labels);
  const htl::TaskOutputs outputs = htl::TaskOutputs()
                                       .set("click", at::randn({300, 1}, at::kDouble))
                                       .set("like", at::randn({300, 1}, at::kDouble))
                                       .set("buy", at::randn({300, 1}, at::kDouble))
                                       .set("watch_time", at::randn({300, 1}, at::kDouble))
                                       .set("spend", at::rand({300, 1}, at::kDouble));
  const htl::TaskSet tasks = fitted.calibrated(outputs, labels);
  const htl::TaskSet read = htl::task_set_from_json(htl::parse_json(text_of(tasks), "tasks"));
  EXPECT_EQ(text_of(read), text_of(tasks));
  const htl::Predictions before = tasks.predict(outputs, labels.context), after = read.predict(outputs, labels.context);
  for (const auto& [name, prediction] : before) EXPECT_TRUE(htl::test::same_bits(prediction, after[name])) << name;
  EXPECT_TRUE(htl::test::same_bits(after["like"], htl::PriorCorrection(.1).apply(outputs["like"].squeeze(1).sigmoid())));
}

TEST(TaskSetJson, TellsWhatIsWrong) {
  const auto told = [](const std::string& tasks) {
    return sentence([&] { htl::task_set_from_json(htl::parse_json(R"({"format":"htl.task_set","version":1,"tasks":[)" + tasks + "]}", "f")); });
  };
  EXPECT_EQ(told(R"({"name":"a","kind":"binary"})"), "no error");
  EXPECT_EQ(told(""), "htl::TaskSet: expected at least one task, got none");
  EXPECT_EQ(told(R"({"name":"a","kind":"binari"})"), "htl::task_set_from_json: task 0: unknown kind \"binari\"; did you mean \"binary\"?");
  EXPECT_EQ(told(R"({"name":"a","kind":"binary","coer":true})"), "htl::task_set_from_json: task 0: unknown key \"coer\"; did you mean \"core\"?");
  EXPECT_EQ(told(R"({"name":"a","kind":"binary","core":1})"), "htl::task_set_from_json: task 0: expected true or false under \"core\", got number");
  EXPECT_EQ(told(R"({"name":"a","kind":"multiclass"})"), "htl::task_set_from_json: task 0: expected the key \"classes\", which is not there");
  EXPECT_EQ(told(R"({"name":"a","kind":"multiclass","classes":2.5})"),
            "htl::task_set_from_json: task 0: expected a whole number under \"classes\", got number");
  EXPECT_EQ(told(R"({"name":"a","kind":"binary","after":"b"})"), "htl::task_set_from_json: task 0: expected a list under \"after\", got string");
  EXPECT_EQ(told(R"({"name":"a","kind":"binary","after":[1]})"), "htl::task_set_from_json: task 0: expected texts in \"after\", got number");
  EXPECT_EQ(told(R"({"name":"a","kind":"regression","transform":{"name":"z_score","statistics":{"mean":1,"sd":0}}})"),
            "htl::task_set_from_json: task 0, transform, statistics: htl::z_score: expected a finite mean and a finite sd > 0, got mean 1, sd 0");
  EXPECT_EQ(told(R"({"name":"a","kind":"regression","transform":{"name":"z_score","statistics":{"mean":"1","sd":1}}})"),
            "htl::task_set_from_json: task 0, transform, statistics: expected a number, got the text 1");
  EXPECT_NE(told(R"({"name":"a","kind":"regression","losses":[{"name":"hubre","weight":1}]})").find("did you mean \"huber\""), std::string::npos);
  EXPECT_EQ(told(R"({"name":"a","kind":"regression","losses":[{"name":"huber"}]})"),
            "htl::task_set_from_json: task 0, losses: expected the key \"weight\", which is not there");
  EXPECT_EQ(sentence([] { htl::task_set_from_json(htl::parse_json(R"({"format":"htl.task_set","version":2,"tasks":[]})", "f")); }),
            "htl::task_set_from_json: expected a version from 1 to 1, got 2; it was written by a newer library or changed by hand");
  EXPECT_EQ(sentence([] { htl::task_set_from_json(htl::parse_json(R"({"format":"htl.feature_map","version":1})", "f")); }),
            "htl::task_set_from_json: expected the format \"htl.task_set\", got \"htl.feature_map\"");
  EXPECT_EQ(sentence([] { htl::parse_json(R"({"a":1,"a":2})", "\"tasks.json\""); }), "htl::parse_json: \"tasks.json\" has the key \"a\" twice in one object");
  EXPECT_EQ(sentence([] { htl::parse_json("{", "\"tasks.json\""); }).find("htl::parse_json: \"tasks.json\" is not valid JSON: "), 0U);
}

struct SeenHalf {  // a transform and a loss of the user's own
  std::string name() const { return "half"; }
  SeenHalf fitted(const at::Tensor&) const { return *this; }
  bool is_fitted() const { return true; }
  at::Tensor apply(const at::Tensor& values) const { return values * 0.5; }
  at::Tensor inverse(const at::Tensor& values) const { return values * 2.0; }
  htl::Options statistics() const { return {}; }
  SeenHalf with_statistics(const htl::Options&) const { return *this; }
};

TEST(TaskSetJson, TakesTheUsersOwnTransforms) {
  const htl::TaskSet tasks{htl::regression("a").transform(SeenHalf{})};
  const nlohmann::json json = htl::parse_json(text_of(tasks), "tasks");
  EXPECT_NE(sentence([&] { htl::task_set_from_json(json); }).find("unknown transform \"half\""), std::string::npos);
  htl::TaskSetReaders readers;
  readers.transform = [](std::string_view name, const htl::Options& options) {
    return name == "half" ? htl::AnyLabelTransform(SeenHalf{}) : htl::label_transform(name, options);
  };
  EXPECT_EQ(text_of(htl::task_set_from_json(json, readers)), text_of(tasks));
}

TEST(FeatureMapJson, KeepsEveryByteAndBit) {
  using Field = htl::FeatureMap::Field;
  const std::vector<std::string> users = {"u1", "größe", "\xff\xfe", "{\"bytes\": \"00\"}", "a\nb\"c\\", std::string("\0x", 2)};
  const htl::FeatureMap map(
      {Field{"user", htl::FieldKind::categorical, '\0', users}, Field{"tags", htl::FieldKind::multi_valued, ',', {"1", "2"}},
       Field{"odd", htl::FieldKind::multi_valued, '\xa7', {}}, Field{"duration", htl::FieldKind::bucketised, '\0', {}, {-0.1, 1.0 / 3.0, 7.0, 1e30}},
       Field{"caf\xe9", htl::FieldKind::categorical}},
      {{"price", 0.1}, {"age", -3.0}});
  const std::string text = htl::to_json(map).dump();
  const htl::FeatureMap read = htl::feature_map_from_json(htl::parse_json(text, "map"));
  EXPECT_TRUE(read == map);
  EXPECT_EQ(htl::to_json(read).dump(), text);
  EXPECT_EQ(read.id(0, "\xff\xfe"), 3);
  EXPECT_EQ(read.id(3, "8"), map.id(3, "8"));
  EXPECT_TRUE(htl::feature_map_from_json(htl::parse_json(htl::to_json(htl::FeatureMap()).dump(), "map")) == htl::FeatureMap());
}

TEST(FeatureMapJson, TellsWhatIsWrong) {
  const auto told = [](const std::string& fields, const std::string& numeric = "") {
    return sentence([&] {
      htl::feature_map_from_json(htl::parse_json(R"({"format":"htl.feature_map","version":1,"fields":[)" + fields + R"(],"numeric":[)" + numeric + "]}", "f"));
    });
  };
  EXPECT_EQ(told(R"({"name":"a","kind":"categorical","vocabulary":["x"]})"), "no error");
  EXPECT_NE(told(R"({"name":"a","kind":"categorial","vocabulary":["x"]})").find("did you mean \"categorical\""), std::string::npos);
  EXPECT_EQ(told(R"({"name":"a","kind":"categorical"})"), "htl::feature_map_from_json: field 0: expected the key \"vocabulary\", which is not there");
  EXPECT_EQ(told(R"({"name":"a","kind":"categorical","vocabulary":[],"edges":[]})"),
            "htl::feature_map_from_json: field 0: unknown key \"edges\"; did you mean \"name\"?");
  EXPECT_EQ(told(R"({"name":"a","kind":"multi_valued","separator":"::","vocabulary":[]})"),
            "htl::feature_map_from_json: field 0: expected a separator of one byte, got 2");
  EXPECT_EQ(told(R"({"name":"a","kind":"categorical","vocabulary":[{"bytes":"f"}]})"),
            "htl::feature_map_from_json: field 0, vocabulary: expected a text or {\"bytes\": \"hexadecimal digits\"}, got object");
  EXPECT_NE(told(R"({"name":"a","kind":"categorical","vocabulary":["x","x"]})").find("\"x\" is in the vocabulary twice"), std::string::npos);
  EXPECT_EQ(told("", R"({"name":"a","missing":null})"), "htl::feature_map_from_json: numeric column 0: expected a number under \"missing\", got null");
}

TEST_F(Safetensors, AreMappedWithoutReadingThem) {
  const at::Tensor table = at::randn({1000, 16}), ids = at::tensor({1, 2, 3}, at::kInt), flags = at::ones({3}, at::kBool), none = at::empty({0, 4});
  htl::save_safetensors(path("t"), {htl::Named<at::Tensor>().set("flags", flags).set("ids", ids).set("table", table).set("none", none),
                                    htl::Named<std::string>().set("kind", "test")});
  const auto before = htl::read_file(path("t"));
  htl::TensorFile mapped = htl::map_safetensors(path("t"));
  EXPECT_TRUE(mapped.is_checked);
  EXPECT_EQ(mapped.metadata["kind"], "test");
  for (const auto& [name, value] : htl::load_safetensors(path("t")).tensors) EXPECT_TRUE(same(mapped.tensors[name], value)) << name;

  at::Tensor kept = mapped.tensors["table"].narrow(0, 10, 5);  // outlives the rest
  mapped = htl::TensorFile();
  EXPECT_TRUE(same(kept, table.narrow(0, 10, 5)));
  kept.add_(1.0);  // this process's copy, never the file
  EXPECT_EQ(htl::read_file(path("t")), before);
  EXPECT_TRUE(same(htl::map_safetensors(path("t")).tensors["table"], table));
  htl::save_safetensors(path("t"), {htl::Named<at::Tensor>().set("table", at::zeros({2})), {}});  // a new file of that name
  EXPECT_TRUE(same(kept, table.narrow(0, 10, 5) + 1.0));
}

TEST_F(Safetensors, AreMappedAsStrictlyAsTheyAreLoaded) {
  htl::save_safetensors(path("t"), {htl::Named<at::Tensor>().set("x", at::randn({64})).set("flags", at::ones({3}, at::kBool)), {}});
  const std::string bytes = htl::read_file(path("t"));
  std::mt19937 random(5);
  for (int i = 0; i < 400; ++i) {
    std::string damaged = bytes;
    if (i % 4 == 0) {
      damaged.resize(random() % bytes.size());
    } else {
      damaged[random() % bytes.size()] ^= static_cast<char>(1 << random() % 8);
    }
    htl::write_atomically(path("d"), damaged);
    const std::string loaded = sentence([&] { htl::load_safetensors(path("d")); });
    EXPECT_EQ(sentence([&] { htl::map_safetensors(path("d")); }), loaded);
    sentence([&] { htl::map_safetensors(path("d"), /*verifies=*/false); });  // no crash
  }
  std::string flipped = bytes;
  flipped[bytes.size() - 100] ^= 1;  // in the data
  htl::write_atomically(path("d"), flipped);
  EXPECT_NE(sentence([&] { htl::map_safetensors(path("d")); }).find("checksum"), std::string::npos);
  EXPECT_FALSE(htl::map_safetensors(path("d"), /*verifies=*/false).is_checked);
  EXPECT_NE(sentence([&] { htl::map_safetensors(path("absent")); }).find("can't open"), std::string::npos);
  EXPECT_NE(sentence([&] { htl::map_safetensors(path("")); }).find("found something else"), std::string::npos);
}

TEST_F(Safetensors, ThatLieUnalignedAreCopied) {
  const std::string header = R"({"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})";
  std::string bytes(8, '\0');
  bytes[0] = static_cast<char>(header.size());
  ASSERT_NE((8 + header.size()) % 4, 0U);
  const float values[2] = {1.5F, -2.0F};
  bytes += header + std::string(reinterpret_cast<const char*>(values), 8);
  htl::write_atomically(path("t"), bytes);
  EXPECT_TRUE(same(htl::map_safetensors(path("t")).tensors["x"], at::tensor({1.5F, -2.0F})));
}

TEST(ChildState, TakesThePrefixOff) {
  const auto state = htl::Named<at::Tensor>().set("graph.a.weight", at::zeros({1})).set("graph.b", at::ones({2})).set("graphs.c", at::ones({3}));
  const auto child = htl::child_state(state, "graph");
  EXPECT_EQ(child.names(), (std::vector<std::string>{"a.weight", "b"}));
  EXPECT_EQ(htl::child_state(child, "a").names(), std::vector<std::string>{"weight"});
  EXPECT_NE(sentence([&] { htl::child_state(state, "net"); }).find("no name begins with \"net.\""), std::string::npos);
}

TEST(Named, OfPairsRefusesANameTwice) {
  EXPECT_EQ(htl::Named<int>({{"a", 1}, {"b", 2}})["b"], 2);
  EXPECT_EQ(sentence([] { htl::Named<int>({{"a", 1}, {"b", 2}, {"a", 3}}); }), "htl::Named: the name \"a\" is there twice");
}

}  // namespace
