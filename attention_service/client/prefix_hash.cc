#include "attention_service/client/prefix_hash.h"

namespace atl::attention {
namespace {

constexpr size_t kBlock = 64;

// The finaliser of splitmix64: every input bit reaches every output bit.
uint64_t Mix(uint64_t h) {
  h ^= h >> 30;
  h *= 0xbf58476d1ce4e5b9u;
  h ^= h >> 27;
  h *= 0x94d049bb133111ebu;
  return h ^ (h >> 31);
}

}  // namespace

uint64_t ExtendPrefixHash(uint64_t hash, std::span<const uint32_t, kBlock> ids,
                          int64_t num_expanded) {
  for (size_t i = 0; i < kBlock; ++i) {
    const uint64_t expanded = static_cast<int64_t>(i) < num_expanded;
    hash = Mix(hash + (expanded << 32 | ids[i]) + 0x9e3779b97f4a7c15u);
  }
  return hash;
}

std::vector<uint64_t> PrefixHashes(std::span<const uint32_t> ids, uint64_t bias_version,
                                   int64_t num_expanded) {
  std::vector<uint64_t> hashes;
  hashes.reserve(ids.size() / kBlock);
  uint64_t hash = Mix(bias_version + 0x9e3779b97f4a7c15u);
  for (size_t i = 0; i + kBlock <= ids.size(); i += kBlock) {
    hash = ExtendPrefixHash(hash, ids.subspan(i).first<kBlock>(),
                            num_expanded - static_cast<int64_t>(i));
    hashes.push_back(hash);
  }
  return hashes;
}

}  // namespace atl::attention
