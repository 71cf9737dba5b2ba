// SPDX-License-Identifier: Apache-2.0
/// @file task_graph_json_test.cpp
/// @brief TaskGraphOptions through JSON: nothing is lost, the same modules come of it, and what is wrong is named.

#include <htl/io/task_graph_json.hpp>

#include <support/seeded.hpp>

#include <gtest/gtest.h>

namespace {

nlohmann::json json_of(const htl::TaskGraphOptions& options) { return nlohmann::json(htl::to_json(options)); }
std::string refused(const std::string& key, const nlohmann::json& value) {
  nlohmann::json json = json_of(htl::TaskGraphOptions(8));
  json[nlohmann::json::json_pointer(key)] = value;
  return htl::test::sentence_of([&] { htl::task_graph_options_from_json(json); });
}

TEST(TaskGraphJson, LosesNothing) {
  const auto options = htl::TaskGraphOptions(17)
                           .numeric_width(3)
                           .tower({9, 5})
                           .dropout(0.25)
                           .representation(1)
                           .transfer(htl::Transfer::label)
                           .stop_gradient(htl::StopGradient::none)
                           .fusion(htl::FusionKind::gate)
                           .fusion_width(4)
                           .label_fusion_width(6)
                           .label(htl::LabelEmbeddingOptions()
                                      .dim(7)
                                      .noise(htl::LabelNoise::none)
                                      .hardness(htl::LabelHardness::straight_through)
                                      .temperature(htl::Temperature::exponential(10, 0.9, 5000, 0.5))
                                      .evaluation(htl::LabelEvaluation::tempered));
  const nlohmann::json json = json_of(options);
  const htl::TaskGraphOptions read = htl::task_graph_options_from_json(json);
  EXPECT_EQ(json_of(read), json);
  EXPECT_EQ(read.input_width(), 17);
  EXPECT_EQ(read.numeric_width(), 3);
  EXPECT_EQ(read.tower(), (std::vector<int64_t>{9, 5}));
  EXPECT_EQ(read.dropout(), 0.25);
  EXPECT_EQ(read.representation(), 1);
  EXPECT_EQ(read.transfer(), htl::Transfer::label);
  EXPECT_EQ(read.stop_gradient(), htl::StopGradient::none);
  EXPECT_EQ(read.fusion(), htl::FusionKind::gate);
  EXPECT_EQ(read.fusion_width(), 4);
  EXPECT_EQ(read.label_fusion_width(), 6);
  EXPECT_EQ(read.label().dim(), 7);
  EXPECT_EQ(read.label().noise(), htl::LabelNoise::none);
  EXPECT_EQ(read.label().hardness(), htl::LabelHardness::straight_through);
  EXPECT_EQ(read.label().temperature().to_string(), "exponential:10,0.9,5000,0.5");
  EXPECT_EQ(read.label().evaluation(), htl::LabelEvaluation::tempered);
  for (const int64_t layer : {htl::first_hidden, htl::last_hidden})
    EXPECT_EQ(htl::task_graph_options_from_json(json_of(htl::TaskGraphOptions(1).representation(layer))).representation(), layer);
}

TEST(TaskGraphJson, WhatIsLeftOutHasItsDefault) {
  const nlohmann::json defaults = json_of(htl::TaskGraphOptions(8));
  EXPECT_FALSE(defaults["label"].contains("evaluation"));
  EXPECT_EQ(json_of(htl::task_graph_options_from_json({{"input_width", 8}})), defaults);
  EXPECT_EQ(json_of(htl::task_graph_options_from_json({{"input_width", 8}, {"label", nlohmann::json::object()}})), defaults);
}

TEST(TaskGraphJson, FaultsAreNamed) {
  const std::string who = "htl::task_graph_options_from_json";
  EXPECT_EQ(htl::test::sentence_of([] {
              htl::task_graph_options_from_json({{"tower", {4}}});
            }),
            who + ": expected the key \"input_width\", which is not there");
  EXPECT_EQ(refused("/towr", 1), who + ": unknown key \"towr\"; did you mean \"tower\"?");
  EXPECT_EQ(refused("/label/dims", 1), who + ", label: unknown key \"dims\"; did you mean \"dim\"?");
  EXPECT_EQ(refused("/tower", {4, 2.5}), who + ": expected whole numbers in \"tower\", got number");
  EXPECT_EQ(refused("/tower", 4), who + ": expected a list under \"tower\", got number");
  EXPECT_EQ(refused("/representation", "lost"), who + ", representation: unknown value \"lost\"; did you mean \"last\"? Known: \"first\", \"last\"");
  EXPECT_EQ(refused("/representation", 0.5), who + ": expected a whole number under \"representation\", got number");
  EXPECT_NE(refused("/fusion", "attenton").find("did you mean \"attention\""), std::string::npos);
  EXPECT_NE(refused("/label/temperature", "warm").find("htl::Temperature: can't read \"warm\""), std::string::npos);
  EXPECT_EQ(refused("/label", nullptr), who + ", label: expected an object, got null");
}

}  // namespace
