// Names of cached prefixes: what attention nodes announce and routers compare.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace atl::attention {

// One hash per whole block of 64 ids of `ids`: hash i covers ids 0 .. 64 (i + 1) - 1, the form of
// attention of each (the first `num_expanded` are expanded: with profiles that say so, the prompt;
// with others none) and the bias version, so equal hashes mean (but for 2^-64 chance, which costs a
// wrong choice of node, never a wrong token) equal latents.
std::vector<uint64_t> PrefixHashes(std::span<const uint32_t> ids, uint64_t bias_version,
                                   int64_t num_expanded = 0);

// The hash of a prefix one block longer than the one that `hash` stands for; the first
// `num_expanded` ids of that block are expanded.
uint64_t ExtendPrefixHash(uint64_t hash, std::span<const uint32_t, 64> ids,
                          int64_t num_expanded = 0);

}  // namespace atl::attention
