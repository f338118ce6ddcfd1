// The latent cache of one attention node: a pool of blocks of 64 positions, and the prefixes kept
// in them for later.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <list>
#include <span>
#include <unordered_map>
#include <vector>

#include "base/buffer.h"
#include "base/status.h"
#include "kernels/mla.h"

namespace atl::attention {

using BlockId = int32_t;

// Of a sequence's first `num_expanded` ids those in its block `i`.
inline int64_t ExpandedInBlock(int64_t num_expanded, int64_t i) {
  return std::clamp<int64_t>(num_expanded - i * kernels::kCacheBlock, 0, kernels::kCacheBlock);
}

struct CacheStats {
  int64_t total = 0;
  int64_t used = 0;    // held by sequences
  int64_t cached = 0;  // kept for later prompts, held by no sequence
};

// Blocks of all layers: block `b` of layer `l` is CacheBlockBytes at Block(l, b). A block is held
// by the sequences that Acquire or Match it (counted); full blocks can be kept under the ids they
// hold, and are given up, least recently used first, when blocks are needed. A kept block is never
// written again, but for the MTP layer's latent of its last position, which holds the token after
// the block (drafter.h: it matters to guesses alone). Thread-compatible: only the engine's thread
// calls.
class LatentCache {
 public:
  LatentCache(const kernels::MlaShape& shape, int64_t num_layers, int64_t num_blocks);

  // A block of this sequence's own. ResourceExhausted when all are held: ordinary traffic; preempt
  // or wait.
  StatusOr<BlockId> Acquire();
  void Release(BlockId block);

  // Blocks of the longest kept prefix of `ids` (whole blocks only; at most ids.size() - 1
  // positions, so that at least one is computed). Each is held for the caller. Compares ids, not
  // hashes alone: a collision costs time, never a token. The first `num_expanded` ids attend in the
  // expanded form (PrefixHashes): only latents that were computed so are found for them.
  std::vector<BlockId> Match(std::span<const uint32_t> ids, uint64_t bias_version,
                             int64_t num_expanded = 0);

  // Keeps `block`, now full, as the one after `parent` (-1: the first) holding these 64 ids, the
  // first `num_expanded` of which are expanded.
  // Returns the block that stands for this prefix from now on: `block`, or the one that was kept
  // before for the same ids (which is then held instead, and `block` released: same bits).
  BlockId Keep(BlockId block, BlockId parent, std::span<const uint32_t, kernels::kCacheBlock> ids,
               uint64_t bias_version, int64_t num_expanded = 0);

  std::byte* Block(int64_t layer, BlockId block) {
    return layers_[layer].data() + static_cast<int64_t>(block) * block_bytes_;
  }

  CacheStats stats() const;
  int64_t num_blocks() const { return num_blocks_; }
  int64_t block_bytes() const { return block_bytes_; }
  // Chain hashes (PrefixHashes) of kept prefixes, most recently used first, at most `limit`.
  std::vector<uint64_t> KeptHashes(size_t limit) const;

 private:
  struct Kept {
    uint64_t hash = 0;
    BlockId parent = -1;
    uint64_t parent_serial = 0;
    uint64_t bias_version = 0;
    int64_t num_expanded = 0;  // of `ids`, 0 to 64
    std::array<uint32_t, kernels::kCacheBlock> ids{};
  };
  struct BlockState {
    int32_t holders = 0;
    uint64_t serial = 0;  // changes when the block's content is given up: a child's parent is then
                          // no longer this one
    bool kept = false;
    Kept entry;
    std::list<BlockId>::iterator lru;  // valid while kept
  };

  BlockId FindKept(uint64_t hash, BlockId parent, std::span<const uint32_t> ids,
                   uint64_t bias_version, int64_t num_expanded) const;
  void GiveUp(BlockId block);
  void Hold(BlockId block);

  const int64_t num_blocks_;
  const int64_t block_bytes_;
  std::vector<Buffer> layers_;
  std::vector<BlockState> blocks_;
  std::vector<BlockId> free_;
  std::list<BlockId> lru_;  // kept blocks, most recently used first
  std::unordered_multimap<uint64_t, BlockId> by_hash_;
  int64_t used_ = 0;
  uint64_t next_serial_ = 1;
};

}  // namespace atl::attention
