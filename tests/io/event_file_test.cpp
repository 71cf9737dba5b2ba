// SPDX-License-Identifier: Apache-2.0
/// @file event_file_test.cpp
/// @brief Event files: byte by byte what TensorBoard's own writer writes, and cut back without a step twice.

#include <htl/io/atomic_file.hpp>
#include <htl/io/event_file.hpp>

#include <golden/events.hpp>
#include <support/temporary_folder.hpp>

#include <gtest/gtest.h>

#include <limits>
#include <string>

namespace {

using htl::EventFile;
using htl::Named;

TEST(Crc32c, IsThatOfItsCheckValue) {
  EXPECT_EQ(htl::detail::crc32c_of("123456789"), 0xE3069283U);
  EXPECT_EQ(htl::detail::crc32c_of(""), 0U);
}

class Events : public testing::Test {
 protected:
  void write(EventFile& events, int from = 0) const {
    if (from <= 0) events.add(0, Named<double>().set("loss/click", 0.5).set("loss/größe", 0.0), 1700000000.25);
    if (from <= 1)
      events.add(300,
                 Named<double>()
                     .set("valid/click/auc", 0.1)
                     .set("rate", -1e-30)
                     .set("undefined", std::numeric_limits<double>::quiet_NaN())
                     .set(std::string(200, 'a'), std::numeric_limits<double>::infinity()),
                 1700000001.5);
    events.add((int64_t{1} << 40) + 5, Named<double>().set("x", 3e38), 1700000002.0);
  }
  htl::test::TemporaryFolder folder;
  std::filesystem::path path = folder.path("events.out.tfevents.htl");
  std::string golden{htl::golden::event_file.begin(), htl::golden::event_file.end()};
};

TEST_F(Events, AreTheBytesOfTensorBoardsOwnWriter) {
  EventFile events(path);
  EXPECT_EQ(events.size(), 0);
  events.add(5, {});
  EXPECT_EQ(events.size(), 0);
  write(events);
  events.sync();
  EXPECT_EQ(htl::read_file(path), golden);
  EXPECT_EQ(events.size(), static_cast<int64_t>(golden.size()));
}

TEST_F(Events, AreCutBackAndGoOn) {
  int64_t size = 0;
  {
    EventFile events(path);
    events.add(0, Named<double>().set("loss/click", 0.5).set("loss/größe", 0.0), 1700000000.25);
    size = events.size();
    events.add(1, Named<double>().set("loss/click", 7.0));
  }
  {
    EventFile events(path);
    events.keep(size);
    write(events, 1);
    EXPECT_EQ(htl::read_file(path), golden);
    EXPECT_THROW(events.keep(events.size() + 1), c10::ValueError);
    events.keep(0);
    write(events);
  }
  EXPECT_EQ(htl::read_file(path), golden) << "an emptied file must begin with its version again";
}

TEST_F(Events, RefuseAStepBelowZeroAndAFileThatCannotBeMade) {
  EventFile events(path);
  EXPECT_THROW(events.add(-1, Named<double>().set("x", 1.0)), c10::ValueError);
  EXPECT_EQ(events.size(), 0);
  EXPECT_THROW(EventFile(folder.path("nowhere") / "events.out.tfevents.htl"), c10::ValueError);
}

}  // namespace
