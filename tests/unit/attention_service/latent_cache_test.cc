#include "attention_service/latent_cache.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "attention_service/client/prefix_hash.h"
#include "attention_service/model_runner.h"

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
void KeepPrefix(LatentCache* cache, const std::vector<uint32_t>& ids, uint64_t bias_version = 0,
                int64_t num_expanded = 0) {
  std::vector<BlockId> blocks;
  for (size_t i = 0; i + kBlock <= ids.size(); i += kBlock) {
    auto block = cache->Acquire();
    ASSERT_TRUE(block.ok()) << block.status();
    const BlockId parent = blocks.empty() ? -1 : blocks.back();
    blocks.push_back(
        cache->Keep(*block, parent, std::span<const uint32_t, kBlock>(ids.data() + i, kBlock),
                    bias_version, ExpandedInBlock(num_expanded, static_cast<int64_t>(i) / kBlock)));
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

// A prompt of 100 tokens and 92 generated after it: expanded, expanded and absorbed, absorbed.
TEST(LatentCacheTest, OnlyLatentsOfTheSameFormMatch) {
  LatentCache cache = MakeCache(12);
  const std::vector<uint32_t> ids = Ids(3 * kBlock);
  KeepPrefix(&cache, ids, 0, 100);
  const std::vector<uint32_t> longer = Ids(4 * kBlock);
  for (const auto& [num_expanded, expected] : std::vector<std::pair<int64_t, size_t>>{
           {100, 3}, {0, 0}, {63, 0}, {64, 1}, {99, 1}, {101, 1}, {256, 1}}) {
    const std::vector<BlockId> found = cache.Match(longer, 0, num_expanded);
    EXPECT_EQ(found.size(), expected) << num_expanded;
    ReleaseAll(&cache, found);
  }
  // Both stay side by side.
  KeepPrefix(&cache, ids);
  EXPECT_EQ(cache.stats().cached, 6);
  std::vector<uint64_t> kept = cache.KeptHashes(10), expected = PrefixHashes(ids, 0, 100);
  for (uint64_t hash : PrefixHashes(ids, 0)) expected.push_back(hash);
  std::sort(kept.begin(), kept.end());
  std::sort(expected.begin(), expected.end());
  EXPECT_EQ(kept, expected);
}

// The room of a cache of a given size, as plans count it and as the kernels lay it out.
TEST(LatentCacheTest, BlocksHaveTheBytesThatPlansCount) {
  for (const std::string profile : {"reference", "q8", "q8+fp8cache"}) {
    for (const auto& [r, dr] :
         {std::pair{512, 64}, std::pair{32, 8}, std::pair{130, 6}, std::pair{7, 2}}) {
      model::ModelConfig config;
      config.num_attention_heads = 2;
      config.kv_lora_rank = r;
      config.qk_rope_head_dim = dr;
      const model::NumericProfile p = *model::FindProfile(profile);
      const LatentCache cache(CacheShape(config, p, 1), 1, 1);
      EXPECT_EQ(cache.block_bytes(), kBlock * model::LatentBytes(p, r, dr)) << profile << " " << r;
    }
  }
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
