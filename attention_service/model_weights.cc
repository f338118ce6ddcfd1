#include "attention_service/model_weights.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>

#include "absl/synchronization/mutex.h"
#include "weights/load_packed.h"

namespace atl::attention {
namespace {

using kernels::PackedMatrix;

struct Loader {
  const model::Checkpoint& checkpoint;
  const model::NumericProfile& profile;
  ThreadPool* pool;

  StatusOr<PackedMatrix> Matrix(const std::string& name) const {
    return weights::LoadPacked(checkpoint, name + ".weight", profile.weights, pool);
  }
  StatusOr<std::vector<float>> Vector(const std::string& name) const {
    return checkpoint.ReadAll(name + ".weight");
  }
};

std::optional<kernels::YarnParams> Yarn(const model::ModelConfig& config) {
  if (!config.rope_scaling) return std::nullopt;
  const model::RopeScaling& s = *config.rope_scaling;
  return kernels::YarnParams{
      .factor = s.factor,
      .beta_fast = s.beta_fast,
      .beta_slow = s.beta_slow,
      .mscale = s.mscale,
      .mscale_all_dim = s.mscale_all_dim,
      .original_max_position_embeddings = s.original_max_position_embeddings};
}

// Fills W [N, K] given as float32 row-major into panels of 16 rows.
PackedMatrix PackRows(kernels::WeightFormat format, int64_t n, int64_t k, const float* rows) {
  PackedMatrix packed(format, n, k);
  for (int64_t p = 0; p < packed.num_panels(); ++p)
    packed.FillPanel(p, rows + p * PackedMatrix::kPanel * k);
  return packed;
}

// kv_b_proj [H (Dn + Dv), R] split per head: W_UK transposed to [R, Dn], W_UV [Dv, R] as it is, and
// for expanded prompts W_UK as it is too: in 8 bits the two differ, for groups run along the inner
// axis.
Status LoadKvB(const Loader& load, const std::string& prefix, bool expanded, LayerWeights* layer) {
  const model::ModelConfig& c = load.checkpoint.config();
  const std::string name = prefix + "self_attn.kv_b_proj.weight";
  const kernels::WeightFormat format =
      weights::PackedFormat(load.checkpoint, name, load.profile.kv_b);
  const int64_t heads = c.num_attention_heads, dn = c.qk_nope_head_dim, dv = c.v_head_dim,
                r = c.kv_lora_rank;
  layer->w_uk.resize(heads);
  layer->w_uv.resize(heads);
  layer->w_k.resize(expanded ? heads : 0);
  absl::Mutex mu;
  Status status;
  const auto load_head = [&](int64_t h) {
    std::vector<float> rows((dn + dv) * r), transposed(r * dn);
    const Status read = load.checkpoint.ReadRows(name, h * (dn + dv), dn + dv, rows.data());
    if (!read.ok()) {
      absl::MutexLock lock(&mu);
      status.Update(read);
      return;
    }
    for (int64_t i = 0; i < dn; ++i) {
      for (int64_t j = 0; j < r; ++j) transposed[j * dn + i] = rows[i * r + j];
    }
    layer->w_uk[h] = PackRows(format, r, dn, transposed.data());
    layer->w_uv[h] = PackRows(format, dv, r, rows.data() + dn * r);
    if (expanded) layer->w_k[h] = PackRows(format, dn, r, rows.data());
  };
  if (load.pool != nullptr) {
    load.pool->ParallelFor(heads, load_head);
  } else {
    for (int64_t h = 0; h < heads; ++h) load_head(h);
  }
  return status;
}

Status LoadLayer(const Loader& load, int64_t l, LayerWeights* layer) {
  const model::ModelConfig& c = load.checkpoint.config();
  const std::string prefix = model::LayerPrefix(l);
  const std::string attn = prefix + "self_attn.";
  ATL_ASSIGN_OR_RETURN(layer->input_norm, load.Vector(prefix + "input_layernorm"));
  ATL_ASSIGN_OR_RETURN(layer->post_norm, load.Vector(prefix + "post_attention_layernorm"));
  if (c.q_lora_rank == 0) {
    ATL_ASSIGN_OR_RETURN(layer->q_proj, load.Matrix(attn + "q_proj"));
  } else {
    ATL_ASSIGN_OR_RETURN(layer->q_a, load.Matrix(attn + "q_a_proj"));
    ATL_ASSIGN_OR_RETURN(layer->q_a_norm, load.Vector(attn + "q_a_layernorm"));
    ATL_ASSIGN_OR_RETURN(layer->q_b, load.Matrix(attn + "q_b_proj"));
  }
  ATL_ASSIGN_OR_RETURN(layer->kv_a, load.Matrix(attn + "kv_a_proj_with_mqa"));
  ATL_ASSIGN_OR_RETURN(layer->kv_a_norm, load.Vector(attn + "kv_a_layernorm"));
  // The MTP layer's guesses are absorbed.
  const bool expanded = load.profile.expands_prompts() && l < c.num_hidden_layers;
  ATL_RETURN_IF_ERROR(LoadKvB(load, prefix, expanded, layer));
  ATL_ASSIGN_OR_RETURN(layer->o_proj, load.Matrix(attn + "o_proj"));
  // MTP layers (l >= L) are MoE layers like the last ones.
  if (!c.is_moe_layer(l)) {
    ATL_ASSIGN_OR_RETURN(layer->dense, weights::LoadFfn(load.checkpoint, prefix + "mlp.",
                                                        load.profile.weights, load.pool));
  }
  return absl::OkStatus();
}

Status LoadMtp(const Loader& load, int64_t l, MtpWeights* mtp) {
  const std::string prefix = model::LayerPrefix(l);
  ATL_ASSIGN_OR_RETURN(mtp->enorm, load.Vector(prefix + "enorm"));
  ATL_ASSIGN_OR_RETURN(mtp->hnorm, load.Vector(prefix + "hnorm"));
  ATL_ASSIGN_OR_RETURN(mtp->head_norm, load.Vector(prefix + "shared_head.norm"));
  ATL_ASSIGN_OR_RETURN(mtp->eh_proj, load.Matrix(prefix + "eh_proj"));
  return absl::OkStatus();
}

// What a profile does to an embedding that is looked up: bf16 where its matrices are, else exact.
model::MatrixFormat EmbeddingRule(const model::NumericProfile& profile) {
  return profile.weights == model::MatrixFormat::kBf16 ? model::MatrixFormat::kBf16
                                                       : model::MatrixFormat::kExact;
}

Status LoadEmbedding(const Loader& load, ModelWeights* w) {
  const std::string name = "model.embed_tokens.weight";
  const bool bf16 = weights::PackedFormat(load.checkpoint, name, EmbeddingRule(load.profile)) ==
                    kernels::WeightFormat::kBf16;
  w->embedding_type = bf16 ? DType::kBf16 : DType::kF32;
  const int64_t d = w->config.hidden_size;
  w->embedding = Buffer(w->config.vocab_size * d * DTypeBytes(w->embedding_type));
  constexpr int64_t kRows = 256;
  std::vector<float> rows(bf16 ? kRows * d : 0);
  for (int64_t begin = 0; begin < w->config.vocab_size; begin += kRows) {
    const int64_t count = std::min(kRows, w->config.vocab_size - begin);
    float* to = bf16 ? rows.data() : w->embedding.as<float>() + begin * d;
    ATL_RETURN_IF_ERROR(load.checkpoint.ReadRows(name, begin, count, to));
    if (!bf16) continue;
    Bf16* out = w->embedding.as<Bf16>() + begin * d;
    for (int64_t i = 0; i < count * d; ++i) out[i] = F32ToBf16(rows[i]);
  }
  return absl::OkStatus();
}

}  // namespace

void ModelWeights::Embed(uint32_t id, float* out) const {
  const int64_t d = config.hidden_size;
  if (embedding_type == DType::kF32) {
    std::memcpy(out, embedding.as<float>() + id * d, d * sizeof(float));
    return;
  }
  const Bf16* row = embedding.as<Bf16>() + id * d;
  for (int64_t i = 0; i < d; ++i) out[i] = Bf16ToF32(row[i]);
}

StatusOr<std::unique_ptr<ModelWeights>> LoadModelWeights(const model::Checkpoint& checkpoint,
                                                         const model::NumericProfile& profile,
                                                         int64_t context_length, bool with_mtp,
                                                         ThreadPool* pool) {
  const Loader load{checkpoint, profile, pool};
  auto w = std::make_unique<ModelWeights>();
  w->config = checkpoint.config();
  w->profile = profile;
  const model::ModelConfig& c = w->config;
  ATL_RETURN_IF_ERROR(model::CheckServable(c));
  ATL_RETURN_IF_ERROR(LoadEmbedding(load, w.get()));
  const int64_t num_mtp = with_mtp ? std::min<int64_t>(1, c.num_nextn_predict_layers) : 0;
  w->layers.resize(c.num_hidden_layers + num_mtp);
  w->mtp.resize(num_mtp);
  for (int64_t l = 0; l < static_cast<int64_t>(w->layers.size()); ++l) {
    ATL_RETURN_IF_ERROR(LoadLayer(load, l, &w->layers[l]));
    if (l >= c.num_hidden_layers)
      ATL_RETURN_IF_ERROR(LoadMtp(load, l, &w->mtp[l - c.num_hidden_layers]));
  }
  ATL_ASSIGN_OR_RETURN(w->final_norm, load.Vector("model.norm"));
  ATL_ASSIGN_OR_RETURN(w->head,
                       load.Matrix(c.tie_word_embeddings ? "model.embed_tokens" : "lm_head"));
  const std::optional<kernels::YarnParams> yarn = Yarn(c);
  w->rope =
      std::make_unique<kernels::RopeTable>(c.qk_rope_head_dim, c.rope_theta, yarn, context_length);
  const double head_dim = static_cast<double>(c.qk_nope_head_dim + c.qk_rope_head_dim);
  w->softmax_scale =
      static_cast<float>(1.0 / std::sqrt(head_dim)) * kernels::YarnSoftmaxFactor(yarn);
  return w;
}

}  // namespace atl::attention
