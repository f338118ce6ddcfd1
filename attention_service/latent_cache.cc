#include "attention_service/latent_cache.h"

#include <algorithm>

#include "attention_service/client/prefix_hash.h"
#include "base/check.h"

namespace atl::attention {

using kernels::kCacheBlock;

LatentCache::LatentCache(const kernels::MlaShape& shape, int64_t num_layers, int64_t num_blocks)
    : num_blocks_(num_blocks), block_bytes_(kernels::CacheBlockBytes(shape)), blocks_(num_blocks) {
  layers_.reserve(num_layers);
  for (int64_t l = 0; l < num_layers; ++l) layers_.emplace_back(num_blocks * block_bytes_);
  free_.reserve(num_blocks);
  for (int64_t b = num_blocks - 1; b >= 0; --b) free_.push_back(static_cast<BlockId>(b));
}

StatusOr<BlockId> LatentCache::Acquire() {
  if (free_.empty()) {
    // The least recently used block that no sequence holds. Children of a given-up block can no
    // longer be matched; they are older in the list than it is only if they were used less
    // recently, and go in their turn.
    auto victim = std::find_if(lru_.rbegin(), lru_.rend(),
                               [&](BlockId b) { return blocks_[b].holders == 0; });
    if (victim == lru_.rend()) {
      return ResourceExhausted("latent cache: all %d blocks are held by sequences", num_blocks_);
    }
    const BlockId block = *victim;
    GiveUp(block);
    free_.push_back(block);
  }
  const BlockId block = free_.back();
  free_.pop_back();
  blocks_[block].serial = next_serial_++;
  Hold(block);
  return block;
}

void LatentCache::Hold(BlockId block) {
  if (blocks_[block].holders++ == 0) ++used_;
}

void LatentCache::Release(BlockId block) {
  BlockState& state = blocks_[block];
  ATL_CHECK(state.holders > 0);
  if (--state.holders > 0) return;
  --used_;
  if (!state.kept) free_.push_back(block);
}

void LatentCache::GiveUp(BlockId block) {
  BlockState& state = blocks_[block];
  lru_.erase(state.lru);
  auto [begin, end] = by_hash_.equal_range(state.entry.hash);
  for (auto it = begin; it != end; ++it) {
    if (it->second == block) {
      by_hash_.erase(it);
      break;
    }
  }
  state.kept = false;
  state.serial = next_serial_++;
}

BlockId LatentCache::FindKept(uint64_t hash, BlockId parent, std::span<const uint32_t> ids,
                              uint64_t bias_version, int64_t num_expanded) const {
  auto [begin, end] = by_hash_.equal_range(hash);
  for (auto it = begin; it != end; ++it) {
    const Kept& kept = blocks_[it->second].entry;
    if (kept.bias_version != bias_version || kept.num_expanded != num_expanded ||
        kept.parent != parent) {
      continue;
    }
    if (parent >= 0 && kept.parent_serial != blocks_[parent].serial) continue;
    if (std::equal(ids.begin(), ids.end(), kept.ids.begin())) return it->second;
  }
  return -1;
}

std::vector<BlockId> LatentCache::Match(std::span<const uint32_t> ids, uint64_t bias_version,
                                        int64_t num_expanded) {
  std::vector<BlockId> found;
  if (ids.size() < 2) return found;
  const std::vector<uint64_t> hashes =
      PrefixHashes(ids.first(ids.size() - 1), bias_version, num_expanded);
  BlockId parent = -1;
  for (size_t i = 0; i < hashes.size(); ++i) {
    const BlockId block = FindKept(hashes[i], parent, ids.subspan(i * kCacheBlock, kCacheBlock),
                                   bias_version, ExpandedInBlock(num_expanded, i));
    if (block < 0) break;
    Hold(block);
    lru_.splice(lru_.begin(), lru_, blocks_[block].lru);
    found.push_back(block);
    parent = block;
  }
  return found;
}

BlockId LatentCache::Keep(BlockId block, BlockId parent, std::span<const uint32_t, kCacheBlock> ids,
                          uint64_t bias_version, int64_t num_expanded) {
  BlockState& state = blocks_[block];
  if (state.kept) return block;
  // The chain hash goes on from the parent's.
  uint64_t hash;
  if (parent < 0) {
    hash = PrefixHashes(ids, bias_version, num_expanded)[0];
  } else {
    if (!blocks_[parent].kept) return block;  // its parent was never kept: the chain ends there
    hash = ExtendPrefixHash(blocks_[parent].entry.hash, ids, num_expanded);
  }
  const BlockId before = FindKept(hash, parent, ids, bias_version, num_expanded);
  if (before >= 0) {
    Hold(before);
    lru_.splice(lru_.begin(), lru_, blocks_[before].lru);
    Release(block);
    return before;
  }
  state.kept = true;
  state.entry.hash = hash;
  state.entry.parent = parent;
  state.entry.parent_serial = parent >= 0 ? blocks_[parent].serial : 0;
  state.entry.bias_version = bias_version;
  state.entry.num_expanded = num_expanded;
  std::copy(ids.begin(), ids.end(), state.entry.ids.begin());
  lru_.push_front(block);
  state.lru = lru_.begin();
  by_hash_.emplace(hash, block);
  return block;
}

CacheStats LatentCache::stats() const {
  CacheStats stats;
  stats.total = num_blocks_;
  stats.used = used_;
  stats.cached = num_blocks_ - used_ - static_cast<int64_t>(free_.size());
  return stats;
}

std::vector<uint64_t> LatentCache::KeptHashes(size_t limit) const {
  std::vector<uint64_t> hashes;
  for (BlockId block : lru_) {
    if (hashes.size() >= limit) break;
    hashes.push_back(blocks_[block].entry.hash);
  }
  return hashes;
}

}  // namespace atl::attention
