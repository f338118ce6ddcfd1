#include "cli/status_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "base/file.h"

namespace atl::cli {
namespace {

using ::testing::HasSubstr;

ProcessEntry Entry(int pid) {
  return {"expert", "expert-0", pid, {"127.0.0.1:1", "127.0.0.1:2", "", "127.0.0.1:4"}, 33, 0};
}

TEST(StatusFileTest, HasTheDocumentedFields) {
  const auto json = nlohmann::json::parse(FormatStatusFile({Entry(7)}));
  const auto expected =
      nlohmann::json::parse(R"({"processes": [{"role": "expert", "name": "expert-0", "pid": 7,
      "addresses": {"grpc": "127.0.0.1:1", "data": "127.0.0.1:2", "health": "", "metrics": "127.0.0.1:4"},
      "holds": {"experts": 33, "sequences": 0}}]})");
  EXPECT_EQ(json, expected);
  EXPECT_EQ(nlohmann::json::parse(FormatStatusFile({})),
            nlohmann::json::parse(R"({"processes": []})"));
}

TEST(StatusFileTest, IsWrittenOnlyWhenItChanges) {
  const std::string path = ::testing::TempDir() + "/status_file_test.json";
  ASSERT_TRUE(WriteFileAtomically(path, FormatStatusFile({Entry(6)})).ok());
  auto file = StatusFile::Create(path);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_FALSE(FileExists(path));

  const auto inode = [&] {
    struct stat info = {};
    EXPECT_EQ(stat(path.c_str(), &info), 0);
    return info.st_ino;
  };
  ASSERT_TRUE(file->Update({Entry(7)}).ok());
  const auto first = inode();
  ASSERT_TRUE(file->Update({Entry(7)}).ok());
  EXPECT_EQ(inode(), first);  // a rename would have brought another
  ASSERT_TRUE(file->Update({Entry(8)}).ok());
  EXPECT_EQ(*ReadFile(path), FormatStatusFile({Entry(8)}));
}

// A slip of the hand: the file that is named is somebody else's.
TEST(StatusFileTest, WhatIsNoStatusFileIsKept) {
  const std::string path = ::testing::TempDir() + "/status_file_test_config.json";
  for (const char* text :
       {"{\"model_type\": \"deepseek_v3\"}", "no JSON", "{\"processes\": [], \"a\": 1}"}) {
    ASSERT_TRUE(WriteFileAtomically(path, text).ok());
    EXPECT_EQ(StatusFile::Create(path).status().code(), absl::StatusCode::kAlreadyExists);
    EXPECT_EQ(*ReadFile(path), text);
  }
  EXPECT_EQ(StatusFile::Create("/dev/null").status().code(), absl::StatusCode::kAlreadyExists);
  EXPECT_FALSE(StatusFile::Create(::testing::TempDir()).ok());
}

TEST(StatusFileTest, ALinkIsFollowed) {
  const std::string target = ::testing::TempDir() + "/status_file_test_target.json";
  const std::string link = ::testing::TempDir() + "/status_file_test_link.json";
  ASSERT_TRUE(WriteFileAtomically(target, "").ok());
  unlink(link.c_str());
  ASSERT_EQ(symlink(target.c_str(), link.c_str()), 0);
  auto file = StatusFile::Create(link);
  ASSERT_TRUE(file.ok()) << file.status();
  ASSERT_TRUE(file->Update({Entry(7)}).ok());
  EXPECT_EQ(*ReadFile(target), FormatStatusFile({Entry(7)}));
  EXPECT_EQ(*ReadFile(link), *ReadFile(target));
}

TEST(StatusFileTest, AFolderThatIsNotThereIsSaidAtOnce) {
  const auto file = StatusFile::Create("/no/such/folder/status.json");
  ASSERT_FALSE(file.ok());
  EXPECT_THAT(std::string(file.status().message()), HasSubstr("/no/such/folder/status.json"));
}

TEST(StatusFileTest, WithoutAPathNothingIsWritten) {
  auto file = StatusFile::Create("");
  ASSERT_TRUE(file.ok());
  EXPECT_TRUE(file->Update({Entry(7)}).ok());
}

TEST(StatusFileTest, ReportsOfChildrenAreReadBack) {
  const cluster::NodeAddresses addresses{"a:1", "b:2", "", "d:4"};
  const auto parsed = AddressesFromJson(AddressesToJson(addresses).dump());
  ASSERT_TRUE(parsed.ok());
  EXPECT_EQ(parsed->grpc, "a:1");
  EXPECT_EQ(parsed->data, "b:2");
  EXPECT_EQ(parsed->health, "");
  EXPECT_EQ(parsed->metrics, "d:4");
  for (const char* text :
       {"", "{", "[]", R"({"grpc": 1})", R"({"grpc": "a", "data": "b", "health": "c"})"}) {
    EXPECT_FALSE(AddressesFromJson(text).ok()) << text;
  }
}

}  // namespace
}  // namespace atl::cli
