#include "attention_service/latent_cache.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "attention_service/client/prefix_hash.h"

namespace atl::attention {
namespace {

constexpr int64_t kBlock = kernels::kCacheBlock;

LatentCache MakeCache(int64_t blocks) {
  return LatentCache({.num_heads = 2, .kv_lora_rank = 8, .qk_rope_head_dim = 4, .softmax_scale = 1},
                     2, blocks);
}

std::vector<uint32_t> Ids(int64_t n, uint32_t first = 0) {
  std::vector<uint32_t> ids(n);
  for (int64_t i = 0; i < n; ++i) ids[i] = first + static_cast<uint32_t>(i);
  return ids;
}

// Computes `ids` on fresh blocks, keeps the full ones, and gives all back.
void KeepPrefix(LatentCache* cache, const std::vector<uint32_t>& ids, uint64_t bias_version = 0) {
  std::vector<BlockId> blocks;
  for (size_t i = 0; i + kBlock <= ids.size(); i += kBlock) {
    auto block = cache->Acquire();
    ASSERT_TRUE(block.ok()) << block.status();
    const BlockId parent = blocks.empty() ? -1 : blocks.back();
    blocks.push_back(cache->Keep(
        *block, parent, std::span<const uint32_t, kBlock>(ids.data() + i, kBlock), bias_version));
  }
  for (auto it = blocks.rbegin(); it != blocks.rend(); ++it) cache->Release(*it);
}

void ReleaseAll(LatentCache* cache, const std::vector<BlockId>& blocks) {
  for (BlockId block : blocks) cache->Release(block);
}

TEST(LatentCacheTest, BlocksRunOutAndComeBack) {
  LatentCache cache = MakeCache(3);
  std::vector<BlockId> blocks;
  for (int i = 0; i < 3; ++i) blocks.push_back(*cache.Acquire());
  EXPECT_EQ(cache.Acquire().status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(cache.stats().used, 3);
  ReleaseAll(&cache, blocks);
  EXPECT_EQ(cache.stats().used, 0);
  EXPECT_EQ(cache.stats().cached, 0);
  EXPECT_TRUE(cache.Acquire().ok());
}

TEST(LatentCacheTest, MatchesWholeBlocksButNeverTheLastPosition) {
  LatentCache cache = MakeCache(8);
  KeepPrefix(&cache, Ids(2 * kBlock));
  for (const auto& [length, expected] : std::vector<std::pair<int64_t, size_t>>{{1, 0},
                                                                                {kBlock, 0},
                                                                                {kBlock + 1, 1},
                                                                                {2 * kBlock, 1},
                                                                                {2 * kBlock + 1, 2},
                                                                                {5 * kBlock, 2}}) {
    const std::vector<uint32_t> ids = Ids(length);
    const std::vector<BlockId> found = cache.Match(ids, 0);
    EXPECT_EQ(found.size(), expected) << length;
    ReleaseAll(&cache, found);
  }
}

TEST(LatentCacheTest, OtherIdsOtherBiasVersionOrAnotherPrefixDoNotMatch) {
  LatentCache cache = MakeCache(8);
  KeepPrefix(&cache, Ids(2 * kBlock));
  EXPECT_TRUE(cache.Match(Ids(3 * kBlock), 1).empty());
  std::vector<uint32_t> changed = Ids(3 * kBlock);
  changed[kBlock + 5] = 9999;
  const std::vector<BlockId> found = cache.Match(changed, 0);
  EXPECT_EQ(found.size(), 1);
  ReleaseAll(&cache, found);
  // The second block's ids alone, as a first block.
  EXPECT_TRUE(cache.Match(Ids(2 * kBlock, kBlock), 0).empty());
}

TEST(LatentCacheTest, KeptBlocksAreGivenUpLeastRecentlyUsedFirst) {
  LatentCache cache = MakeCache(4);
  KeepPrefix(&cache, Ids(kBlock, 1000));
  KeepPrefix(&cache, Ids(kBlock, 2000));
  ReleaseAll(&cache, cache.Match(Ids(kBlock + 1, 1000), 0));  // used again
  std::vector<BlockId> blocks;
  for (int i = 0; i < 3; ++i)
    blocks.push_back(*cache.Acquire());  // two free ones, and the oldest kept
  EXPECT_TRUE(cache.Match(Ids(kBlock + 1, 2000), 0).empty());
  const std::vector<BlockId> found = cache.Match(Ids(kBlock + 1, 1000), 0);
  EXPECT_EQ(found.size(), 1);
  ReleaseAll(&cache, found);
  ReleaseAll(&cache, blocks);
}

TEST(LatentCacheTest, AChildIsNotFoundOnceItsParentWasGivenUp) {
  LatentCache cache = MakeCache(3);
  const std::vector<uint32_t> ids = Ids(2 * kBlock);
  KeepPrefix(&cache, ids);
  // Takes the free block and the one used least recently, which is the parent or the child.
  std::vector<BlockId> blocks = {*cache.Acquire(), *cache.Acquire()};
  const std::vector<BlockId> found = cache.Match(Ids(3 * kBlock), 0);
  EXPECT_LE(found.size(), 1);
  // The same first block computed again elsewhere must not adopt the old child.
  ReleaseAll(&cache, found);
  ReleaseAll(&cache, blocks);
  KeepPrefix(&cache, Ids(kBlock));
  EXPECT_LE(cache.Match(Ids(3 * kBlock), 0).size(), 2);
}

TEST(LatentCacheTest, TheSamePrefixKeptTwiceIsOneBlock) {
  LatentCache cache = MakeCache(4);
  const std::vector<uint32_t> ids = Ids(kBlock);
  const std::span<const uint32_t, kBlock> span(ids.data(), kBlock);
  const BlockId first = *cache.Acquire(), second = *cache.Acquire();
  EXPECT_EQ(cache.Keep(first, -1, span, 0), first);
  EXPECT_EQ(cache.Keep(second, -1, span, 0), first);
  EXPECT_EQ(cache.stats().used, 1);
  cache.Release(first);
  cache.Release(first);
  EXPECT_EQ(cache.stats().used, 0);
  EXPECT_EQ(cache.stats().cached, 1);
}

TEST(LatentCacheTest, KeptHashesAreThoseOfThePrefixes) {
  LatentCache cache = MakeCache(4);
  const std::vector<uint32_t> ids = Ids(2 * kBlock);
  KeepPrefix(&cache, ids, 5);
  std::vector<uint64_t> kept = cache.KeptHashes(10), expected = PrefixHashes(ids, 5);
  std::sort(kept.begin(), kept.end());
  std::sort(expected.begin(), expected.end());
  EXPECT_EQ(kept, expected);
  EXPECT_EQ(cache.KeptHashes(1).size(), 1);
}

}  // namespace
}  // namespace atl::attention
