// The weights that an attention node holds: embedding, MLA of every layer, dense layers, norms,
// head. No experts.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "base/status.h"
#include "kernels/ffn.h"
#include "kernels/matmul.h"
#include "kernels/rope.h"
#include "model/checkpoint.h"
#include "model/profile.h"
#include "weights/packed_cache.h"

namespace atl::attention {

struct LayerWeights {
  std::vector<float> input_norm;  // [D]
  std::vector<float> post_norm;   // [D]
  kernels::PackedMatrix q_proj;   // [H (Dn + Dr), D]; empty with q_lora
  kernels::PackedMatrix q_a;      // [Rq, D]
  std::vector<float> q_a_norm;    // [Rq]
  kernels::PackedMatrix q_b;      // [H (Dn + Dr), Rq]
  kernels::PackedMatrix kv_a;     // [R + Dr, D]
  std::vector<float> kv_a_norm;   // [R]
  std::vector<kernels::PackedMatrix>
      w_uk;  // H of [R, Dn]: a query's nope part into the latent space
  std::vector<kernels::PackedMatrix> w_uv;  // H of [Dv, R]: a head's latent output back
  std::vector<kernels::PackedMatrix> w_k;  // H of [Dn, R]: W_UK the other way, a head's keys out of
                                           // latents; empty where no prompt is expanded
  kernels::PackedMatrix o_proj;            // [D, H Dv]
  std::optional<kernels::FfnWeights> dense;  // layers without experts
};

// One multi-token-prediction layer: eh_proj [ enorm(Emb(t_{i+1})) ; hnorm(h_i) ], then the layer.
// Its embedding and head are the main model's.
struct MtpWeights {
  std::vector<float> enorm, hnorm, head_norm;  // [D]
  kernels::PackedMatrix eh_proj;               // [D, 2 D]
};

// Constant after loading; any thread may read.
struct ModelWeights {
  model::ModelConfig config;
  model::NumericProfile profile;
  std::shared_ptr<const Buffer> embedding;  // [V, D] of embedding_type
  DType embedding_type = DType::kF32;
  std::vector<LayerWeights> layers;  // L, then the first MTP layer if loaded
  std::vector<MtpWeights> mtp;
  std::vector<float> final_norm;  // [D]
  kernels::PackedMatrix head;     // [V, D]
  std::unique_ptr<kernels::RopeTable> rope;
  float softmax_scale = 0;

  // Row `id` of the embedding as float32 [D].
  void Embed(uint32_t id, float* out) const;
};

// `context_length` positions of rotary table. Matrices and the embedding come through `cache`
// (null: from the checkpoint). DataLoss, NotFound as Checkpoint::ReadRows.
StatusOr<std::unique_ptr<ModelWeights>> LoadModelWeights(const model::Checkpoint& checkpoint,
                                                         const model::NumericProfile& profile,
                                                         int64_t context_length, bool with_mtp,
                                                         ThreadPool* pool,
                                                         weights::PackedCache* cache = nullptr);

}  // namespace atl::attention
