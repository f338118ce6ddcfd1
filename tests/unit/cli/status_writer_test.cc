#include "cli/status_writer.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"

namespace atl::cli {
namespace {

using ::testing::HasSubstr;

constexpr absl::Duration kTimeout = absl::Seconds(20);

ProcessEntry Entry(int pid) {
  return {"expert", "expert-0", pid, {"127.0.0.1:1", "127.0.0.1:2", "", "127.0.0.1:4"}, 33, 0};
}

TEST(StatusWriterTest, WritesWhatItWasToldLast) {
  const std::string path = ::testing::TempDir() + "/status_writer_test.json";
  {
    StatusWriter writer(*StatusFile::Create(path));
    writer.Tell({Entry(7)});
    ASSERT_TRUE(writer.Flush(kTimeout).ok());
    EXPECT_EQ(*ReadFile(path), FormatStatusFile({Entry(7)}));
    writer.Tell({Entry(8)});
  }
  EXPECT_EQ(*ReadFile(path), FormatStatusFile({Entry(8)}));
}

// Where the temporary file is to be there is a pipe that nobody reads: open hangs, as on a disk
// that does not answer.
TEST(StatusWriterTest, ADiskThatHangsHoldsNobodyUp) {
  const std::string path = ::testing::TempDir() + "/status_writer_hangs.json";
  const std::string pipe = absl::StrFormat("%s.%d.tmp", path, getpid());
  StatusWriter writer(*StatusFile::Create(path));
  ASSERT_EQ(mkfifo(pipe.c_str(), 0600), 0);
  writer.Tell({Entry(7)});
  const Status hangs = writer.Flush(absl::Milliseconds(20));
  EXPECT_TRUE(absl::IsDeadlineExceeded(hangs)) << hangs;
  writer.Tell({Entry(8)});
  const int reader = open(pipe.c_str(), O_RDONLY | O_CLOEXEC);
  ASSERT_GE(reader, 0);
  EXPECT_TRUE(writer.Flush(kTimeout).ok());
  EXPECT_EQ(*ReadFile(path), FormatStatusFile({Entry(8)}));
  close(reader);
}

TEST(StatusWriterTest, AWriteThatFailsIsTold) {
  const std::string folder = ::testing::TempDir() + "/status_writer_folder";
  ASSERT_EQ(mkdir(folder.c_str(), 0700), 0);
  StatusWriter writer(*StatusFile::Create(folder + "/status.json"));
  ASSERT_EQ(rmdir(folder.c_str()), 0);
  writer.Tell({Entry(7)});
  EXPECT_THAT(std::string(writer.Flush(kTimeout).message()), HasSubstr(folder));
  EXPECT_FALSE(writer.last_write().ok());
}

}  // namespace
}  // namespace atl::cli
