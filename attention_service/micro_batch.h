// What ModelRunner works on. Private to it.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "attention_service/model_runner.h"
#include "kernels/matmul.h"
#include "kernels/mla.h"

namespace atl::attention {

// Rows [begin, begin + count) that attend together: any absorbed ones, or expanded ones at
// consecutive positions of one sequence.
struct AttentionPiece {
  int64_t begin = 0;
  int64_t count = 0;
  bool expanded = false;
};

// Rows that travel together, and all the room they need. Vectors grow to the largest step seen.
struct ModelRunner::MicroBatch {
  int index = 0;
  std::span<const StepRow> rows;
  int64_t n = 0;
  std::vector<int32_t> positions;
  std::vector<float> hidden;    // [n, D] the residual stream
  std::vector<float> x;         // [n, D] after a norm
  std::vector<float> q_a;       // [n, Rq]
  std::vector<float> q;         // [n, H, Dn + Dr]
  std::vector<float> kv;        // [n, R + Dr]
  std::vector<float> q_latent;  // [n, H, R]
  std::vector<float> q_rope;    // [n, H, Dr]
  std::vector<float> o_latent;  // [n, H, R]
  std::vector<float> o;         // [n, H, Dv]
  std::vector<float> out;       // [n, D] what a sublayer adds
  std::vector<float> scratch;
  std::vector<float> mtp_in;  // [n, 2 D] token and state that enter the MTP layer
  std::vector<const std::byte*> blocks;
  std::vector<size_t> first_block;  // [sequences] where a sequence's blocks begin in `blocks`
  std::vector<kernels::MlaRow> mla_rows;
  std::vector<AttentionPiece> pieces;
  std::vector<kernels::MatMulJob> jobs;
  uint64_t call_id = 0;
  bool waiting = false;
};

}  // namespace atl::attention
