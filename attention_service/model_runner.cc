#include "attention_service/model_runner.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "attention_service/micro_batch.h"
#include "base/check.h"
#include "kernels/elementwise.h"
#include "kernels/ffn.h"
#include "metrics/histogram.h"
#include "weights/load_packed.h"

namespace atl::attention {
namespace {

// Absorbed rows of any sequences; expanded ones of a sequence's consecutive positions.
bool AttendTogether(const StepRow& a, const StepRow& b) {
  if (a.expanded != b.expanded) return false;
  return !a.expanded || (a.seq_idx == b.seq_idx && a.position + 1 == b.position);
}

}  // namespace

kernels::MlaShape CacheShape(const model::ModelConfig& config, const model::NumericProfile& profile,
                             float softmax_scale) {
  return kernels::MlaShape{.num_heads = config.num_attention_heads,
                           .kv_lora_rank = config.kv_lora_rank,
                           .qk_rope_head_dim = config.qk_rope_head_dim,
                           .softmax_scale = softmax_scale,
                           .cache_type = profile.cache};
}

ModelRunner::ModelRunner(const kernels::KernelContext& ctx, const ModelWeights* weights,
                         LatentCache* cache, dispatch::ExpertFabric* fabric, int micro_batches,
                         int64_t min_micro_batch_rows)
    : ctx_(ctx),
      weights_(weights),
      cache_(cache),
      fabric_(fabric),
      max_micro_batches_(std::clamp(micro_batches, 1, 2)),
      min_micro_batch_rows_(std::max<int64_t>(1, min_micro_batch_rows)),
      act_(weights::RoundingOf(weights->profile.activations)),
      shape_(CacheShape(weights->config, weights->profile, weights->softmax_scale)) {
  for (int i = 0; i < max_micro_batches_; ++i) {
    micro_batches_.push_back(std::make_unique<MicroBatch>());
    micro_batches_.back()->index = i;
  }
}

ModelRunner::~ModelRunner() = default;

void ModelRunner::SetHiddenHookForTest(std::function<void(int64_t, const float*, int64_t)> hook) {
  hidden_hook_ = std::move(hook);
}

void ModelRunner::Prepare(MicroBatch* mb, std::span<const StepRow> rows) {
  const model::ModelConfig& c = weights_->config;
  const int64_t n = rows.size(), d = c.hidden_size, heads = c.num_attention_heads;
  mb->rows = rows;
  mb->n = n;
  mb->positions.resize(n);
  mb->pieces.clear();
  for (int64_t t = 0; t < n; ++t) {
    mb->positions[t] = rows[t].position;
    if (t > 0 && AttendTogether(rows[t - 1], rows[t])) {
      ++mb->pieces.back().count;
    } else {
      mb->pieces.push_back({.begin = t, .count = 1, .expanded = rows[t].expanded});
    }
  }
  mb->hidden.resize(n * d);
  mb->x.resize(n * d);
  mb->out.resize(n * d);
  mb->q_a.resize(n * c.q_lora_rank);
  mb->q.resize(n * heads * (c.qk_nope_head_dim + c.qk_rope_head_dim));
  mb->kv.resize(n * c.cache_values_per_token_layer());
  mb->q_latent.resize(n * heads * c.kv_lora_rank);
  mb->q_rope.resize(n * heads * c.qk_rope_head_dim);
  mb->o_latent.resize(n * heads * c.kv_lora_rank);
  mb->o.resize(n * heads * c.v_head_dim);
}

Status ModelRunner::Run(std::span<const StepRow> rows,
                        std::span<const std::span<const BlockId>> block_tables,
                        uint64_t bias_version, std::span<const int32_t> wanted, float* hidden) {
  const int64_t d = weights_->config.hidden_size;
  const int64_t total = rows.size();
  const int count = max_micro_batches_ == 2 && total >= 2 * min_micro_batch_rows_ ? 2 : 1;
  const int64_t first = count == 2 ? (total + 1) / 2 : total;
  for (int i = 0; i < count; ++i) {
    MicroBatch* mb = micro_batches_[i].get();
    Prepare(mb, i == 0 ? rows.first(first) : rows.subspan(first));
    for (int64_t t = 0; t < mb->n; ++t)
      weights_->Embed(mb->rows[t].token, mb->hidden.data() + t * d);
  }
  ATL_RETURN_IF_ERROR(RunLayers(0, weights_->config.num_hidden_layers, block_tables, bias_version,
                                absl::InfiniteFuture(), count));
  for (size_t i = 0; i < wanted.size(); ++i) {
    const bool second = wanted[i] >= first;
    const MicroBatch& mb = *micro_batches_[second ? 1 : 0];
    const float* state = mb.hidden.data() + (wanted[i] - (second ? first : 0)) * d;
    kernels::RmsNorm(ctx_, state, d, weights_->final_norm.data(), weights_->config.rms_norm_eps, 1,
                     d, hidden + i * d, d, kernels::Rounding::kNone);
  }
  return absl::OkStatus();
}

// Ping-pong: while one micro-batch is at the experts, the other is in attention.
Status ModelRunner::RunLayers(int64_t begin, int64_t end,
                              std::span<const std::span<const BlockId>> block_tables,
                              uint64_t bias_version, absl::Time deadline, int count) {
  Status status;
  for (int64_t layer = begin; layer < end && status.ok(); ++layer) {
    for (int i = 0; i < count && status.ok(); ++i) {
      MicroBatch* mb = micro_batches_[i].get();
      status = FinishFfn(mb);
      if (!status.ok()) break;
      if (hidden_hook_) hidden_hook_(layer, mb->hidden.data(), mb->n);
      Attention(layer, block_tables, mb);
      StartFfn(layer, bias_version, deadline, mb);
    }
  }
  for (int i = 0; i < count; ++i) {
    status.Update(
        FinishFfn(micro_batches_[i].get()));  // also after an error: every call is waited for
    if (hidden_hook_ && status.ok())
      hidden_hook_(end, micro_batches_[i]->hidden.data(), micro_batches_[i]->n);
  }
  return status;
}

void ModelRunner::StartFfn(int64_t layer, uint64_t bias_version, absl::Time deadline,
                           MicroBatch* mb) {
  const LayerWeights& w = weights_->layers[layer];
  const model::ModelConfig& c = weights_->config;
  const int64_t n = mb->n, d = c.hidden_size;
  const kernels::Rounding wire = weights::RoundingOf(weights_->profile.wire);
  kernels::RmsNorm(ctx_, mb->hidden.data(), d, w.post_norm.data(), c.rms_norm_eps, n, d,
                   mb->x.data(), d, w.dense ? act_ : wire);
  if (w.dense) {
    const kernels::FfnJob job{
        .w = &*w.dense, .x = mb->x.data(), .ldx = d, .m = n, .out = mb->out.data(), .ldo = d};
    const size_t scratch = kernels::GroupedFfnScratch(std::span(&job, 1));
    if (mb->scratch.size() < scratch) mb->scratch.resize(scratch);
    kernels::GroupedFfn(ctx_, std::span(&job, 1), act_, kernels::Rounding::kNone,
                        mb->scratch.data());
    kernels::AddInPlace(ctx_, mb->hidden.data(), mb->out.data(), n * d);
    return;
  }
  dispatch::DispatchCall call{.layer = static_cast<int32_t>(layer),
                              .micro_batch = mb->index,
                              .bias_version = bias_version,
                              .rows = n,
                              .x = Buffer(n * d * DTypeBytes(weights_->profile.wire)),
                              .deadline = deadline};
  if (weights_->profile.wire == DType::kBf16) {
    kernels::F32ToBf16Range(ctx_, mb->x.data(), n * d, call.x.as<Bf16>());
  } else {
    std::memcpy(call.x.data(), mb->x.data(), n * d * sizeof(float));
  }
  dispatched_rows_ += n;
  const int64_t began_ns = metrics::MonotonicNs();
  mb->call_id = fabric_->Submit(std::move(call));
  experts_ns_ += metrics::MonotonicNs() - began_ns;
  mb->waiting = true;
}

Status ModelRunner::FinishFfn(MicroBatch* mb) {
  if (!mb->waiting) return absl::OkStatus();
  mb->waiting = false;
  Buffer y;
  const int64_t began_ns = metrics::MonotonicNs();
  const Status waited = fabric_->Wait(mb->call_id, &y);
  experts_ns_ += metrics::MonotonicNs() - began_ns;
  if (!waited.ok()) return waited;
  const int64_t values = mb->n * weights_->config.hidden_size;
  if (weights_->profile.wire == DType::kBf16) {
    kernels::Bf16ToF32Range(ctx_, y.as<Bf16>(), values, mb->out.data());
    kernels::AddInPlace(ctx_, mb->hidden.data(), mb->out.data(), values);
  } else {
    kernels::AddInPlace(ctx_, mb->hidden.data(), y.as<float>(), values);
  }
  return absl::OkStatus();
}

void ModelRunner::Logits(const float* hidden, int64_t n, float* logits) {
  MicroBatch* mb = micro_batches_[0].get();
  const int64_t d = weights_->config.hidden_size;
  mb->x.assign(hidden, hidden + n * d);
  kernels::RoundRange(ctx_, mb->x.data(), n * d, act_);
  kernels::MatMul(ctx_, kernels::MatMulJob{.w = &weights_->head,
                                           .x = mb->x.data(),
                                           .ldx = d,
                                           .m = n,
                                           .y = logits,
                                           .ldy = weights_->config.vocab_size});
}

void ModelRunner::EnterMtp(std::span<const StepRow> rows, const float* previous, MicroBatch* mb) {
  ATL_CHECK(!weights_->mtp.empty());
  const MtpWeights& w = weights_->mtp[0];
  const model::ModelConfig& c = weights_->config;
  const int64_t n = rows.size(), d = c.hidden_size;
  Prepare(mb, rows);
  mb->mtp_in.resize(n * 2 * d);
  float* const both = mb->mtp_in.data();
  for (int64_t t = 0; t < n; ++t) weights_->Embed(rows[t].token, both + t * 2 * d);
  kernels::RmsNorm(ctx_, both, 2 * d, w.enorm.data(), c.rms_norm_eps, n, d, both, 2 * d, act_);
  kernels::RmsNorm(ctx_, previous, d, w.hnorm.data(), c.rms_norm_eps, n, d, both + d, 2 * d, act_);
  kernels::MatMul(
      ctx_,
      kernels::MatMulJob{
          .w = &w.eh_proj, .x = both, .ldx = 2 * d, .m = n, .y = mb->hidden.data(), .ldy = d});
}

Status ModelRunner::RunMtp(std::span<const StepRow> rows,
                           std::span<const std::span<const BlockId>> block_tables,
                           uint64_t bias_version, const float* previous, absl::Time deadline,
                           float* state) {
  const model::ModelConfig& c = weights_->config;
  const int64_t n = rows.size(), d = c.hidden_size;
  MicroBatch* mb = micro_batches_[0].get();
  EnterMtp(rows, previous, mb);
  ATL_RETURN_IF_ERROR(RunLayers(c.num_hidden_layers, c.num_hidden_layers + 1, block_tables,
                                bias_version, deadline, 1));
  kernels::RmsNorm(ctx_, mb->hidden.data(), d, weights_->mtp[0].head_norm.data(), c.rms_norm_eps, n,
                   d, state, d, kernels::Rounding::kNone);
  return absl::OkStatus();
}

void ModelRunner::FeedMtp(std::span<const StepRow> rows,
                          std::span<const std::span<const BlockId>> block_tables,
                          const float* previous) {
  const model::ModelConfig& c = weights_->config;
  const LayerWeights& w = weights_->layers[c.num_hidden_layers];
  const int64_t n = rows.size(), d = c.hidden_size;
  MicroBatch* mb = micro_batches_[0].get();
  EnterMtp(rows, previous, mb);
  kernels::RmsNorm(ctx_, mb->hidden.data(), d, w.input_norm.data(), c.rms_norm_eps, n, d,
                   mb->x.data(), d, act_);
  kernels::MatMul(ctx_, kernels::MatMulJob{.w = &w.kv_a,
                                           .x = mb->x.data(),
                                           .ldx = d,
                                           .m = n,
                                           .y = mb->kv.data(),
                                           .ldy = c.cache_values_per_token_layer()});
  StoreLatents(c.num_hidden_layers, block_tables, mb);
}

}  // namespace atl::attention
