#include "attention_service/model_weights.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>

#include "weights/jobs.h"
#include "weights/load_packed.h"
#include "weights/piece.h"

namespace atl::attention {
namespace {

using kernels::PackedMatrix;

struct Loader {
  const model::Checkpoint& checkpoint;
  const model::NumericProfile& profile;
  ThreadPool* pool;
  weights::PackedCache* cache;

  StatusOr<PackedMatrix> Matrix(const std::string& name) const {
    return Matrix(name, profile.weights);
  }
  StatusOr<PackedMatrix> Matrix(const std::string& name, model::MatrixFormat rule) const {
    return weights::LoadPacked(checkpoint, name + ".weight", rule, pool, cache);
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
void PackRows(const float* rows, PackedMatrix* packed) {
  for (int64_t p = 0; p < packed->num_panels(); ++p)
    packed->FillPanel(p, rows + p * PackedMatrix::kPanel * packed->k());
}

// kv_b_proj [H (Dn + Dv), R] split per head: W_UK transposed to [R, Dn], W_UV [Dv, R] as it is.
Status LoadKvB(const Loader& load, const std::string& prefix, LayerWeights* layer) {
  const model::ModelConfig& c = load.checkpoint.config();
  const std::string piece = prefix + "self_attn.kv_b_proj", name = piece + ".weight";
  const kernels::WeightFormat format =
      weights::PackedFormat(load.checkpoint, name, load.profile.kv_b);
  const int64_t heads = c.num_attention_heads, dn = c.qk_nope_head_dim, dv = c.v_head_dim,
                r = c.kv_lora_rank;
  layer->w_uk.resize(heads);
  layer->w_uv.resize(heads);
  std::vector<weights::PieceMatrix> matrices;
  for (int64_t h = 0; h < heads; ++h) {
    matrices.push_back({absl::StrFormat("w_uk %d", h), format, r, dn, &layer->w_uk[h]});
    matrices.push_back({absl::StrFormat("w_uv %d", h), format, dv, r, &layer->w_uv[h]});
  }
  const auto load_head = [&](int64_t h) -> Status {
    std::vector<float> rows((dn + dv) * r), transposed(r * dn);
    ATL_RETURN_IF_ERROR(load.checkpoint.ReadRows(name, h * (dn + dv), dn + dv, rows.data()));
    for (int64_t i = 0; i < dn; ++i) {
      for (int64_t j = 0; j < r; ++j) transposed[j * dn + i] = rows[i * r + j];
    }
    PackRows(transposed.data(), &layer->w_uk[h]);
    PackRows(rows.data() + dn * r, &layer->w_uv[h]);
    return absl::OkStatus();
  };
  return weights::LoadPiece(load.cache, piece, matrices, load.pool,
                            [&] { return weights::RunJobs(load.pool, heads, load_head); });
}

// W_UK [Dn, R] of each head as it is: in 8 bits it differs from the transposed one, for groups run
// along the inner axis.
Status LoadExpandedKeys(const Loader& load, const std::string& prefix, LayerWeights* layer) {
  const model::ModelConfig& c = load.checkpoint.config();
  const std::string tensor = prefix + "self_attn.kv_b_proj", name = tensor + ".weight";
  const kernels::WeightFormat format =
      weights::PackedFormat(load.checkpoint, name, load.profile.kv_b);
  const int64_t heads = c.num_attention_heads, dn = c.qk_nope_head_dim, dv = c.v_head_dim,
                r = c.kv_lora_rank;
  layer->w_k.resize(heads);
  std::vector<weights::PieceMatrix> matrices;
  for (int64_t h = 0; h < heads; ++h)
    matrices.push_back({absl::StrFormat("w_k %d", h), format, dn, r, &layer->w_k[h]});
  const auto load_head = [&](int64_t h) -> Status {
    std::vector<float> rows(dn * r);
    ATL_RETURN_IF_ERROR(load.checkpoint.ReadRows(name, h * (dn + dv), dn, rows.data()));
    PackRows(rows.data(), &layer->w_k[h]);
    return absl::OkStatus();
  };
  return weights::LoadPiece(load.cache, tensor + ".w_k", matrices, load.pool,
                            [&] { return weights::RunJobs(load.pool, heads, load_head); });
}

Status LoadLayer(const Loader& load, int64_t l, LayerWeights* layer) {
  const model::ModelConfig& c = load.checkpoint.config();
  const std::string prefix = model::LayerPrefix(l);
  const std::string attn = prefix + "self_attn.";
  ATL_ASSIGN_OR_RETURN(layer->input_norm, load.Vector(prefix + "input_layernorm"));
  ATL_ASSIGN_OR_RETURN(layer->post_norm, load.Vector(prefix + "post_attention_layernorm"));
  std::vector<weights::MatrixSource> projections = {
      {attn + "kv_a_proj_with_mqa.weight", &layer->kv_a}, {attn + "o_proj.weight", &layer->o_proj}};
  if (c.q_lora_rank == 0) {
    projections.push_back({attn + "q_proj.weight", &layer->q_proj});
  } else {
    projections.push_back({attn + "q_a_proj.weight", &layer->q_a});
    projections.push_back({attn + "q_b_proj.weight", &layer->q_b});
    ATL_ASSIGN_OR_RETURN(layer->q_a_norm, load.Vector(attn + "q_a_layernorm"));
  }
  ATL_RETURN_IF_ERROR(weights::LoadTogether(load.checkpoint, prefix + "self_attn", projections,
                                            load.profile.weights, load.pool, load.cache));
  ATL_ASSIGN_OR_RETURN(layer->kv_a_norm, load.Vector(attn + "kv_a_layernorm"));
  ATL_RETURN_IF_ERROR(LoadKvB(load, prefix, layer));
  // The MTP layer's guesses are absorbed.
  if (load.profile.expands_prompts() && l < c.num_hidden_layers)
    ATL_RETURN_IF_ERROR(LoadExpandedKeys(load, prefix, layer));
  // MTP layers (l >= L) are MoE layers like the last ones.
  if (!c.is_moe_layer(l)) {
    ATL_ASSIGN_OR_RETURN(layer->dense,
                         weights::LoadFfn(load.checkpoint, prefix + "mlp.", load.profile.weights,
                                          load.pool, load.cache));
  }
  return absl::OkStatus();
}

Status LoadMtp(const Loader& load, int64_t l, MtpWeights* mtp) {
  const std::string prefix = model::LayerPrefix(l);
  ATL_ASSIGN_OR_RETURN(mtp->enorm, load.Vector(prefix + "enorm"));
  ATL_ASSIGN_OR_RETURN(mtp->hnorm, load.Vector(prefix + "hnorm"));
  ATL_ASSIGN_OR_RETURN(mtp->head_norm, load.Vector(prefix + "shared_head.norm"));
  ATL_ASSIGN_OR_RETURN(mtp->eh_proj, load.Matrix(prefix + "eh_proj", load.profile.head));
  return absl::OkStatus();
}

// What a profile does to an embedding that is looked up: bf16 where its head is, else exact.
model::MatrixFormat EmbeddingRule(const model::NumericProfile& profile) {
  return profile.head == model::MatrixFormat::kBf16 ? model::MatrixFormat::kBf16
                                                    : model::MatrixFormat::kExact;
}

Status LoadEmbedding(const Loader& load, ModelWeights* w) {
  const std::string name = "model.embed_tokens.weight";
  const bool bf16 = weights::PackedFormat(load.checkpoint, name, EmbeddingRule(load.profile)) ==
                    kernels::WeightFormat::kBf16;
  w->embedding_type = bf16 ? DType::kBf16 : DType::kF32;
  const int64_t v = w->config.vocab_size, d = w->config.hidden_size;
  constexpr int64_t kRows = 64;  // of a job
  const auto load_rows = [&](int64_t job, Buffer* to) -> Status {
    const int64_t begin = job * kRows, count = std::min(kRows, v - begin);
    if (!bf16) return load.checkpoint.ReadRows(name, begin, count, to->as<float>() + begin * d);
    std::vector<float> rows(count * d);
    ATL_RETURN_IF_ERROR(load.checkpoint.ReadRows(name, begin, count, rows.data()));
    std::transform(rows.begin(), rows.end(), to->as<Bf16>() + begin * d, F32ToBf16);
    return absl::OkStatus();
  };
  const weights::PieceId piece = {
      .name = "embedding",
      .contents = absl::StrFormat("rows of %s", bf16 ? "bf16" : "f32"),
      .bytes = v * d * static_cast<int64_t>(DTypeBytes(w->embedding_type))};
  ATL_ASSIGN_OR_RETURN(
      w->embedding, weights::LoadMemory(
                        load.cache, piece, load.pool, [&](const weights::PackedCache::Memory& to) {
                          return weights::RunJobs(
                              load.pool, (v + kRows - 1) / kRows,
                              [&](int64_t job) { return load_rows(job, to.get()); });
                        }));
  return absl::OkStatus();
}

}  // namespace

void ModelWeights::Embed(uint32_t id, float* out) const {
  const int64_t d = config.hidden_size;
  if (embedding_type == DType::kF32) {
    std::memcpy(out, embedding->as<float>() + id * d, d * sizeof(float));
    return;
  }
  const Bf16* row = embedding->as<Bf16>() + id * d;
  for (int64_t i = 0; i < d; ++i) out[i] = Bf16ToF32(row[i]);
}

StatusOr<std::unique_ptr<ModelWeights>> LoadModelWeights(const model::Checkpoint& checkpoint,
                                                         const model::NumericProfile& profile,
                                                         int64_t context_length, bool with_mtp,
                                                         ThreadPool* pool,
                                                         weights::PackedCache* cache) {
  const Loader load{checkpoint, profile, pool, cache};
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
  ATL_ASSIGN_OR_RETURN(
      w->head, load.Matrix(c.tie_word_embeddings ? "model.embed_tokens" : "lm_head", profile.head));
  const std::optional<kernels::YarnParams> yarn = Yarn(c);
  w->rope =
      std::make_unique<kernels::RopeTable>(c.qk_rope_head_dim, c.rope_theta, yarn, context_length);
  const double head_dim = static_cast<double>(c.qk_nope_head_dim + c.qk_rope_head_dim);
  w->softmax_scale =
      static_cast<float>(1.0 / std::sqrt(head_dim)) * kernels::YarnSoftmaxFactor(yarn);
  return w;
}

}  // namespace atl::attention
