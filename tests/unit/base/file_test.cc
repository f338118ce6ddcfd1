#include "base/file.h"

#include <gtest/gtest.h>

#include "tests/support/temp_dir.h"

namespace atl {
namespace {

TEST(FileTest, WhatIsWrittenIsRead) {
  ::atl::testing::TempDir dir;
  const std::string path = dir.File("a");
  const std::string data("zero\0byte", 9);
  ASSERT_TRUE(WriteFileAtomically(path, data).ok());
  EXPECT_EQ(ReadFile(path).value(), data);
  ASSERT_TRUE(WriteFileAtomically(path, "new").ok());
  EXPECT_EQ(ReadFile(path).value(), "new");
  EXPECT_TRUE(FileExists(path));
}

TEST(FileTest, ErrorsNameTheFile) {
  ::atl::testing::TempDir dir;
  const Status missing = ReadFile(dir.File("missing")).status();
  EXPECT_EQ(missing.code(), absl::StatusCode::kNotFound);
  EXPECT_NE(std::string(missing.message()).find("missing"), std::string::npos);
  EXPECT_EQ(ReadFile(dir.path()).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_FALSE(WriteFileAtomically(dir.File("no/such/folder"), "x").ok());
  ASSERT_TRUE(WriteFileAtomically(dir.File("big"), std::string(100, 'x')).ok());
  EXPECT_EQ(ReadFile(dir.File("big"), 99).status().code(), absl::StatusCode::kResourceExhausted);
}

TEST(RandomAccessFileTest, ReadsRangesAndTellsOfTheEnd) {
  ::atl::testing::TempDir dir;
  ASSERT_TRUE(WriteFileAtomically(dir.File("f"), "0123456789").ok());
  auto file = RandomAccessFile::Open(dir.File("f"));
  ASSERT_TRUE(file.ok());
  EXPECT_EQ(file->size(), 10);
  char out[4];
  ASSERT_TRUE(file->ReadAt(6, 4, out).ok());
  EXPECT_EQ(std::string(out, 4), "6789");
  EXPECT_EQ(file->ReadAt(7, 4, out).code(), absl::StatusCode::kDataLoss);
}

TEST(RandomAccessFileTest, AMappingOutlivesTheFile) {
  ::atl::testing::TempDir dir;
  const std::string data = std::string(10000, 'a') + "end";
  ASSERT_TRUE(WriteFileAtomically(dir.File("f"), data).ok());
  StatusOr<Buffer> mapped;
  {
    const auto file = RandomAccessFile::Open(dir.File("f"));
    ASSERT_TRUE(file.ok());
    file->WillNeed(0, file->size());
    mapped = file->Map(10002);
    for (const int64_t size : {int64_t{0}, int64_t{10004}})
      EXPECT_EQ(file->Map(size).status().code(), absl::StatusCode::kOutOfRange);
  }
  ASSERT_TRUE(WriteFileAtomically(dir.File("f"), "another").ok());
  ASSERT_TRUE(mapped.ok()) << mapped.status();
  ASSERT_EQ(mapped->size(), 10002);
  const Buffer moved = *std::move(mapped);
  EXPECT_EQ(std::string(moved.as<char>(), moved.size()), data.substr(0, 10002));
}

}  // namespace
}  // namespace atl
