// Three ways to do MlaAttend's work, with the same bits. Private to kernels/ and its tests.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/mla.h"

namespace atl::kernels {

struct MlaCall {
  const KernelContext& ctx;
  const MlaShape& shape;
  std::span<const MlaRow> rows;
  const float* q_latent = nullptr;
  const float* q_rope = nullptr;
  float* out = nullptr;
  Rounding rounding = Rounding::kNone;
};

inline int64_t NumSegments(const MlaRow& row) { return row.position / kSegment + 1; }

// For many rows: a unit is a group of heads of one row, or some rows of one sequence where heads
// are few, done from the first key to the last on one thread.
int64_t MlaByRowsScratch(const MlaCall& call);
void MlaByRows(const MlaCall& call, float* scratch);

// For few rows with long contexts: a unit is a segment of a row, for all heads: a block is read and
// widened once.
int64_t MlaByWholeSegmentsScratch(const MlaCall& call);
void MlaByWholeSegments(const MlaCall& call, float* scratch);

// For few rows with few segments: several segments at a time, all threads on the scores of their
// blocks, then on the softmax, then on columns of the weighted sum; blocks are widened twice.
int64_t MlaBySegmentsScratch(const MlaCall& call);
void MlaBySegments(const MlaCall& call, float* scratch);

}  // namespace atl::kernels
