#include "weights/packed_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <csignal>
#include <cstring>
#include <filesystem>

#include "tests/support/temp_dir.h"

namespace atl::weights {
namespace {

using ::testing::HasSubstr;

const std::string kKey = "layout 1\nsome weights";

Buffer RandomBytes(int64_t size, uint32_t seed) {
  Buffer bytes(size);
  for (int64_t i = 0; i < size; ++i) {
    seed = seed * 1664525 + 1013904223;
    bytes.data()[i] = static_cast<std::byte>(seed >> 24);
  }
  return bytes;
}

bool Equal(const Buffer& a, const Buffer& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size()) == 0;
}

// What is read as a copy and as a mapping, which must agree.
StatusOr<Buffer> ReadBack(const std::string& path, const std::string& key, int64_t size) {
  ThreadPool pool({.num_threads = 3});
  ATL_ASSIGN_OR_RETURN(const PackedFile file, PackedFile::Open(path, key, size));
  const StatusOr<Buffer> mapped = file.Map(&pool);
  Buffer copy(size);
  const Status copied = file.CopyTo(&pool, &copy);
  EXPECT_EQ(copied.code(), mapped.status().code()) << copied << " but " << mapped.status();
  ATL_RETURN_IF_ERROR(copied);
  EXPECT_TRUE(Equal(copy, *mapped));
  return copy;
}

int NumFiles(const std::string& folder) {
  return static_cast<int>(std::distance(std::filesystem::directory_iterator(folder), {}));
}

class PackedFileTest : public ::testing::Test {
 protected:
  // Writes a piece of `size` random bytes.
  void Write(int64_t size) {
    payload_ = RandomBytes(size, static_cast<uint32_t>(size));
    const Status written = WritePackedFile(path(), kKey, payload_, nullptr);
    ASSERT_TRUE(written.ok()) << written;
  }
  void ExpectDamaged(const std::string& bytes, const std::string& what) {
    ASSERT_TRUE(WriteFileAtomically(path(), bytes).ok());
    EXPECT_EQ(ReadBack(path(), kKey, static_cast<int64_t>(payload_.size())).status().code(),
              absl::StatusCode::kDataLoss)
        << what;
  }
  std::string path() const { return dir_.File("piece"); }

  atl::testing::TempDir dir_;
  Buffer payload_;
};

TEST_F(PackedFileTest, GivesBackWhatWasWritten) {
  constexpr int64_t kChunk = 256 << 10;
  ThreadPool pool({.num_threads = 3});
  for (const int64_t size : {int64_t{1}, int64_t{63}, kChunk - 1, kChunk, kChunk + 1, 8 * kChunk,
                             8 * kChunk + 1, 21 * kChunk + 64}) {
    for (ThreadPool* writer : {static_cast<ThreadPool*>(nullptr), &pool}) {
      const Buffer payload = RandomBytes(size, 7);
      ASSERT_TRUE(WritePackedFile(path(), kKey, payload, writer).ok());
      const StatusOr<Buffer> read = ReadBack(path(), kKey, size);
      ASSERT_TRUE(read.ok()) << read.status();
      EXPECT_TRUE(Equal(*read, payload)) << size;
    }
  }
  EXPECT_EQ(NumFiles(dir_.path()), 1) << "unfinished files are left";
}

TEST_F(PackedFileTest, ManyFlippedBitsAreAllSeen) {
  Write(700'000);
  const std::string bytes = *ReadFile(path());
  for (size_t at = 0; at < bytes.size(); at += at > 699'900 ? 1 : 9'973) {
    std::string damaged = bytes;
    damaged[at] = static_cast<char>(damaged[at] ^ 1 << at % 8);
    ExpectDamaged(damaged, absl::StrFormat("bit %d of byte %d of %d", at % 8, at, bytes.size()));
  }
  ASSERT_TRUE(WriteFileAtomically(path(), bytes).ok());
  EXPECT_TRUE(ReadBack(path(), kKey, 700'000).ok()) << "the file is not why it failed";
}

TEST_F(PackedFileTest, CutShortOrLongerIsDamaged) {
  Write(300'000);
  const std::string bytes = *ReadFile(path());
  for (const size_t size : {size_t{0}, size_t{1}, size_t{31}, size_t{32}, size_t{4096},
                            size_t{299'999}, size_t{300'000}, bytes.size() - 1}) {
    ExpectDamaged(bytes.substr(0, size), absl::StrFormat("%d bytes", size));
  }
  ExpectDamaged(bytes + '\0', "a byte more");
  ExpectDamaged(bytes.substr(1), "a byte less in front");
}

TEST_F(PackedFileTest, AnotherFileIsDamaged) {
  Write(1000);
  ExpectDamaged(std::string(100'000, '\0'), "zeros");
  ExpectDamaged("a text that somebody keeps here, longer than a trailer", "a text");
}

TEST_F(PackedFileTest, AnotherKeyOrSizeIsStale) {
  Write(1000);
  for (const std::string& key : {std::string("layout 2\nsome weights"), kKey + " ",
                                 kKey.substr(0, kKey.size() - 1), std::string()}) {
    EXPECT_EQ(PackedFile::Open(path(), key, 1000).status().code(),
              absl::StatusCode::kFailedPrecondition)
        << key;
  }
  EXPECT_EQ(PackedFile::Open(path(), kKey, 1001).status().code(),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(PackedFile::Open(dir_.File("nothing"), kKey, 1000).status().code(),
            absl::StatusCode::kNotFound);
}

TEST_F(PackedFileTest, WhatIsMappedStaysWhenTheFileIsReplaced) {
  Write(500'000);
  const PackedFile file = PackedFile::Open(path(), kKey, 500'000).value();
  const Buffer mapped = file.Map(nullptr).value();
  const Buffer other = RandomBytes(500'000, 99);
  ASSERT_TRUE(WritePackedFile(path(), kKey, other, nullptr).ok());
  EXPECT_TRUE(Equal(mapped, payload_));
  EXPECT_TRUE(Equal(*ReadBack(path(), kKey, 500'000), other));
}

// A limit on the size of files, as long as it lives: writing fails as on a full disk.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(int64_t bytes) : handler_(std::signal(SIGXFSZ, SIG_IGN)) {
    getrlimit(RLIMIT_FSIZE, &before_);
    rlimit limit = before_;
    limit.rlim_cur = bytes;
    EXPECT_EQ(setrlimit(RLIMIT_FSIZE, &limit), 0);
  }
  ~FileSizeLimit() {
    setrlimit(RLIMIT_FSIZE, &before_);
    std::signal(SIGXFSZ, handler_);
  }

 private:
  void (*const handler_)(int);
  rlimit before_;
};

TEST_F(PackedFileTest, WhereThereIsNoRoomTheFileBeforeStaysAndNothingElse) {
  Write(700'000);
  const std::string before = *ReadFile(path());
  const Buffer other = RandomBytes(700'000, 3);
  for (const int64_t room : {0, 300'000, 700'000, 700'030}) {
    const FileSizeLimit limit(room);
    const Status written = WritePackedFile(path(), kKey, other, nullptr);
    EXPECT_FALSE(written.ok()) << room;
    EXPECT_THAT(std::string(written.message()), HasSubstr(path()));
    EXPECT_EQ(NumFiles(dir_.path()), 1) << room;
  }
  EXPECT_EQ(*ReadFile(path()), before);
}

TEST_F(PackedFileTest, AFolderThatIsNoneIsAnError) {
  Write(1000);
  EXPECT_FALSE(WritePackedFile(path() + "/piece", kKey, payload_, nullptr).ok());
  EXPECT_FALSE(WritePackedFile(dir_.File("missing/piece"), kKey, payload_, nullptr).ok());
}

}  // namespace
}  // namespace atl::weights
