#include "weights/packed_cache.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <chrono>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <thread>

#include "base/file.h"
#include "tests/support/golden.h"
#include "tests/support/temp_dir.h"
#include "weights/load_packed.h"

namespace atl::weights {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using Memory = PackedCache::Memory;

const std::string kRevision = "0123456789abcdef";

model::NumericProfile Profile(const std::string& name) { return *model::FindProfile(name); }

const PieceId kPiece = {.name = "some.piece", .contents = "some weights\n", .bytes = 300'000};

// Fills memory with bytes that follow from `seed`, and counts.
class Maker {
 public:
  explicit Maker(uint32_t seed = 1) : seed_(seed) {}
  Status operator()(const Memory& memory) {
    ++calls;
    for (size_t i = 0; i < memory->size(); ++i) {
      EXPECT_EQ(memory->data()[i], std::byte{0}) << "memory to be filled is not zero";
      memory->data()[i] = At(i);
    }
    return absl::OkStatus();
  }
  bool Made(const Memory& memory) const {
    for (size_t i = 0; i < memory->size(); ++i)
      if (memory->data()[i] != At(i)) return false;
    return true;
  }
  int calls = 0;

 private:
  std::byte At(size_t i) const { return static_cast<std::byte>((i * 2654435761u + seed_) >> 13); }
  const uint32_t seed_;
};

class PackedCacheTest : public ::testing::TestWithParam<bool> {
 protected:
  PackedCacheOptions Options() const { return {.dir = dir_.File("cache"), .map = GetParam()}; }
  std::string FileOf(const PieceId& piece) const {
    return Options().dir + "/" + kRevision + "-q8/" + piece.name;
  }
  // Loads the piece with a cache of its own, as a process does; true if it had to be made.
  bool Made(const PieceId& piece = kPiece, const std::string& revision = kRevision,
            const std::string& profile = "q8") {
    PackedCache cache(Options(), revision, Profile(profile));
    Maker maker;
    const StatusOr<Memory> memory = cache.Load(piece, nullptr, std::ref(maker));
    EXPECT_TRUE(memory.ok()) << memory.status();
    EXPECT_TRUE(maker.Made(*memory));
    EXPECT_EQ(cache.stats().made, maker.calls * piece.bytes);
    EXPECT_EQ(GetParam() ? cache.stats().mapped : cache.stats().copied,
              (1 - maker.calls) * piece.bytes);
    EXPECT_EQ(cache.stats().total(), piece.bytes);
    return maker.calls == 1;
  }
  // The log of `fn`.
  template <typename Fn>
  static std::string LogOf(const Fn& fn) {
    ::testing::internal::CaptureStdout();
    ::testing::internal::CaptureStderr();
    fn();
    return ::testing::internal::GetCapturedStdout() + ::testing::internal::GetCapturedStderr();
  }
  static int Count(const std::string& text, const std::string& part) {
    int count = 0;
    for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1))
      ++count;
    return count;
  }
  int NumFiles() const {
    int count = 0;
    for (const auto& entry : fs::recursive_directory_iterator(Options().dir))
      count += entry.is_regular_file() ? 1 : 0;
    return count;
  }

  atl::testing::TempDir dir_;
};

TEST_P(PackedCacheTest, MadeOnceThenTaken) {
  EXPECT_TRUE(Made());
  EXPECT_FALSE(Made());
  EXPECT_EQ(NumFiles(), 1);
  const PieceId other = {.name = "other", .contents = kPiece.contents, .bytes = 64};
  EXPECT_TRUE(Made(other));
  EXPECT_FALSE(Made(other));
  EXPECT_FALSE(Made());
}

TEST_P(PackedCacheTest, WithoutAFolderItIsMadeEachTime) {
  PackedCache cache({}, kRevision, Profile("q8"));
  Maker maker;
  for (int i = 0; i < 2; ++i) EXPECT_TRUE(cache.Load(kPiece, nullptr, std::ref(maker)).ok());
  EXPECT_EQ(maker.calls, 2);
  EXPECT_TRUE(LoadMemory(nullptr, kPiece, nullptr, std::ref(maker)).ok());
  EXPECT_EQ(maker.calls, 3);
}

TEST_P(PackedCacheTest, RevisionsAndProfilesAreKeptApart) {
  EXPECT_TRUE(Made());
  EXPECT_TRUE(Made(kPiece, "fedcba9876543210"));
  EXPECT_TRUE(Made(kPiece, kRevision, "q4"));
  EXPECT_FALSE(Made());
  EXPECT_FALSE(Made(kPiece, "fedcba9876543210"));
  EXPECT_FALSE(Made(kPiece, kRevision, "q4"));
}

TEST_P(PackedCacheTest, ProfilesThatDifferInSuffixesShare) {
  EXPECT_TRUE(Made());
  EXPECT_FALSE(Made(kPiece, kRevision, "q8+fp8cache"));
  EXPECT_FALSE(Made(kPiece, kRevision, "q8+fp8cache+expanded"));
  EXPECT_EQ(NumFiles(), 1);
}

// A file of another revision or profile under this one's name, as after somebody renamed a folder.
TEST_P(PackedCacheTest, WhatWasMadeFromAnotherRevisionOrProfileIsMadeAnew) {
  for (const auto& [revision, profile] :
       {std::pair("fedcba9876543210", "q8"), {kRevision.c_str(), "bf16"}}) {
    EXPECT_TRUE(Made());
    EXPECT_TRUE(Made(kPiece, revision, profile));
    const std::string log = LogOf([&] {
      fs::rename(Options().dir + "/" + revision + "-" + profile + "/" + kPiece.name,
                 FileOf(kPiece));
      EXPECT_TRUE(Made());
    });
    EXPECT_EQ(Count(log, "was made from something else"), 1) << log;
    EXPECT_FALSE(Made());
    fs::remove(FileOf(kPiece));
  }
}

TEST_P(PackedCacheTest, OtherContentsOrAnotherSizeAreMadeAnew) {
  EXPECT_TRUE(Made());
  PieceId changed = kPiece;
  changed.contents = "the same weights in another order\n";
  EXPECT_TRUE(Made(changed));
  EXPECT_FALSE(Made(changed));
  changed.bytes += 64;
  EXPECT_TRUE(Made(changed));
  EXPECT_FALSE(Made(changed));
  EXPECT_EQ(NumFiles(), 1);
}

TEST_P(PackedCacheTest, DamageIsReportedOnceAndMended) {
  EXPECT_TRUE(Made());
  const std::string sound = *ReadFile(FileOf(kPiece));
  for (const size_t at : {size_t{0}, size_t{299'999}, size_t{300'005}, sound.size() - 3}) {
    std::string damaged = sound;
    damaged[at] ^= 4;
    ASSERT_TRUE(WriteFileAtomically(FileOf(kPiece), damaged).ok());
    const std::string log = LogOf([&] {
      EXPECT_TRUE(Made());
      EXPECT_FALSE(Made());
    });
    EXPECT_EQ(Count(log, FileOf(kPiece)), 1) << log;
  }
  for (const std::string& wrong : {sound.substr(0, 100'000), std::string("foreign")}) {
    ASSERT_TRUE(WriteFileAtomically(FileOf(kPiece), wrong).ok());
    EXPECT_TRUE(Made());
    EXPECT_FALSE(Made());
  }
  EXPECT_EQ(*ReadFile(FileOf(kPiece)), sound);
}

TEST_P(PackedCacheTest, APipeInTheFilesPlaceIsReplaced) {
  fs::create_directories(fs::path(FileOf(kPiece)).parent_path());
  ASSERT_EQ(mkfifo(FileOf(kPiece).c_str(), 0600), 0);
  EXPECT_TRUE(Made());
  EXPECT_FALSE(Made());
}

TEST_P(PackedCacheTest, AFolderInTheFilesPlaceIsLeftAndReported) {
  fs::create_directories(FileOf(kPiece));
  const std::string log = LogOf([&] {
    EXPECT_TRUE(Made());
    EXPECT_TRUE(Made());
  });
  EXPECT_EQ(Count(log, "is not a regular file"), 2) << log;
  EXPECT_EQ(Count(log, "nothing is written"), 2) << log;
  EXPECT_TRUE(fs::is_directory(FileOf(kPiece)));
  EXPECT_EQ(NumFiles(), 0);
}

TEST_P(PackedCacheTest, WhatCannotBeMadeIsNotKept) {
  PackedCache cache(Options(), kRevision, Profile("q8"));
  const auto failed =
      cache.Load(kPiece, nullptr, [](const Memory&) { return DataLoss("tensor 'x' is NaN"); });
  EXPECT_THAT(std::string(failed.status().message()), HasSubstr("'x' is NaN"));
  EXPECT_EQ(NumFiles(), 0);
  EXPECT_TRUE(Made());
}

TEST_P(PackedCacheTest, AFolderThatCannotBeMadeIsReportedOnceAndNothingElseHappens) {
  ASSERT_TRUE(WriteFileAtomically(dir_.File("file"), "text").ok());
  const std::string log = LogOf([&] {
    PackedCache cache({.dir = dir_.File("file"), .map = GetParam()}, kRevision, Profile("q8"));
    for (int i = 0; i < 3; ++i) {
      Maker maker;
      EXPECT_TRUE(maker.Made(*cache.Load(kPiece, nullptr, std::ref(maker))));
    }
  });
  EXPECT_EQ(Count(log, "packed cache"), 1) << log;
  EXPECT_EQ(Count(log, dir_.File("file")), 1) << log;
}

TEST_P(PackedCacheTest, AFolderWithoutRoomIsReportedOnceAndPiecesAreMade) {
  struct Limit {
    Limit() : handler(std::signal(SIGXFSZ, SIG_IGN)) {
      getrlimit(RLIMIT_FSIZE, &before);
      rlimit limit = before;
      limit.rlim_cur = 200'000;
      EXPECT_EQ(setrlimit(RLIMIT_FSIZE, &limit), 0);
    }
    ~Limit() {
      setrlimit(RLIMIT_FSIZE, &before);
      std::signal(SIGXFSZ, handler);
    }
    void (*const handler)(int);
    rlimit before;
  };
  const std::string log = LogOf([&] {
    const Limit limit;
    PackedCache cache(Options(), kRevision, Profile("q8"));
    for (int i = 0; i < 3; ++i) {
      Maker maker;
      EXPECT_TRUE(maker.Made(*cache.Load(kPiece, nullptr, std::ref(maker))));
      EXPECT_EQ(maker.calls, 1);
    }
  });
  EXPECT_EQ(Count(log, "nothing is written"), 1) << log;
  EXPECT_EQ(NumFiles(), 0);
  EXPECT_TRUE(Made());
  EXPECT_FALSE(Made());
}

TEST_P(PackedCacheTest, ManyWritersAtOnce) {
  for (int round = 0; round < 10; ++round) {
    std::vector<std::thread> writers;
    for (int i = 0; i < 4; ++i) writers.emplace_back([this] { Made(); });
    for (std::thread& writer : writers) writer.join();
    EXPECT_FALSE(Made());
    EXPECT_EQ(NumFiles(), 1);
    fs::remove(FileOf(kPiece));
  }
}

TEST_P(PackedCacheTest, UnfinishedFilesGoWhenTheyAreOld) {
  EXPECT_TRUE(Made());
  const std::string old = FileOf(kPiece) + ".0123.tmp", young = FileOf(kPiece) + ".4567.tmp";
  for (const std::string& path : {old, young}) ASSERT_TRUE(WriteFileAtomically(path, "half").ok());
  fs::last_write_time(old, fs::file_time_type::clock::now() - std::chrono::minutes(61));
  EXPECT_FALSE(Made());
  EXPECT_FALSE(fs::exists(old));
  EXPECT_TRUE(fs::exists(young)) << "somebody may be writing it";
}

TEST_P(PackedCacheTest, MatricesAreTheSameBytesMadeOrTaken) {
  const auto checkpoint = *model::Checkpoint::Open(atl::testing::GoldenCheckpointDir("v3_fp8"));
  const std::string prefix = ExpertPrefix(checkpoint->config(), 2, 3);
  ThreadPool pool({.num_threads = 3});
  for (const std::string& profile : model::ProfileNames()) {
    const model::MatrixFormat rule = Profile(profile).weights;
    const kernels::FfnWeights plain = *LoadFfn(*checkpoint, prefix, rule, &pool);
    for (const char* start : {"first", "second", "third"}) {
      PackedCache cache(Options(), checkpoint->revision(), Profile(profile));
      const auto found = LoadFfn(*checkpoint, prefix, rule, &pool, &cache);
      ASSERT_TRUE(found.ok()) << found.status();
      EXPECT_EQ(cache.stats().made == 0, std::string(start) != "first");
      for (const auto& [a, b] : {std::pair(&plain.gate, &found->gate),
                                 {&plain.up, &found->up},
                                 {&plain.down, &found->down}}) {
        EXPECT_EQ(a->format(), b->format());
        EXPECT_EQ(a->n(), b->n());
        EXPECT_EQ(a->k(), b->k());
        ASSERT_EQ(a->bytes(), b->bytes());
        EXPECT_EQ(std::memcmp(a->panel(0), b->panel(0), a->bytes()), 0) << profile << " " << start;
      }
      // One piece: the three lie one after another.
      EXPECT_EQ(found->gate.panel(0) + found->gate.bytes(), found->up.panel(0));
      EXPECT_EQ(found->up.panel(0) + found->up.bytes(), found->down.panel(0));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Copied, PackedCacheTest, ::testing::Values(false));
INSTANTIATE_TEST_SUITE_P(Mapped, PackedCacheTest, ::testing::Values(true));

TEST(PackedCacheOptionsTest, MappingNeedsAFolder) {
  EXPECT_TRUE(CheckPackedCacheOptions({}).ok());
  EXPECT_TRUE(CheckPackedCacheOptions({.dir = "d", .map = true}).ok());
  EXPECT_THAT(std::string(CheckPackedCacheOptions({.map = true}).message()),
              HasSubstr("--packed-cache DIR"));
}

}  // namespace
}  // namespace atl::weights
