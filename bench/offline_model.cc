#include "bench/offline_model.h"

#include <algorithm>

namespace atl::bench {

using kernels::PackedMatrix;

StatusOr<std::unique_ptr<OfflineModel>> OfflineModel::Open(const local::LocalStackOptions& options,
                                                           int64_t sequences, int64_t positions) {
  auto model = std::unique_ptr<OfflineModel>(new OfflineModel());
  ATL_ASSIGN_OR_RETURN(model->isa_, kernels::ParseIsa(options.isa));
  ATL_ASSIGN_OR_RETURN(model->stack_, local::LocalStack::Open(options));
  local::LocalStack& stack = *model->stack_;
  ATL_ASSIGN_OR_RETURN(const auto gates,
                       dispatch::GateWeights::Load(stack.checkpoint(), stack.ctx().pool));
  model->Count(*gates);
  const model::ModelConfig& c = stack.checkpoint().config();
  if (positions > c.max_position_embeddings) {
    return InvalidArgument("%d positions: the model has %d", positions, c.max_position_embeddings);
  }
  const int64_t blocks = (positions + kernels::kCacheBlock - 1) / kernels::kCacheBlock;
  model->cache_ = std::make_unique<attention::LatentCache>(
      attention::CacheShape(c, stack.profile(), stack.weights().softmax_scale), c.num_hidden_layers,
      blocks * sequences);
  model->runner_ = std::make_unique<attention::ModelRunner>(
      stack.ctx(), &stack.weights(), model->cache_.get(), stack.fabric(), 1, 1);
  for (int64_t s = 0; s < sequences; ++s) {
    std::vector<attention::BlockId>& table = model->blocks_.emplace_back();
    for (int64_t i = 0; i < blocks; ++i) {
      ATL_ASSIGN_OR_RETURN(const attention::BlockId block, model->cache_->Acquire());
      table.push_back(block);
    }
  }
  for (const auto& table : model->blocks_) model->block_tables_.emplace_back(table);
  return model;
}

void OfflineModel::Count(const dispatch::GateWeights& gates) {
  const attention::ModelWeights& w = stack_->weights();
  const model::ModelConfig& c = w.config;
  const auto add = [this](const PackedMatrix& m) {
    active_bytes_ += static_cast<double>(m.bytes());
    active_weights_ += static_cast<double>(m.n() * m.k());
  };
  add(w.head);
  for (int64_t l = 0; l < c.num_hidden_layers; ++l) {
    const attention::LayerWeights& layer = w.layers[l];
    for (const auto* m : {&layer.q_proj, &layer.q_a, &layer.q_b, &layer.kv_a, &layer.o_proj})
      add(*m);
    for (const PackedMatrix& m : layer.w_uk) add(m);
    for (const PackedMatrix& m : layer.w_uv) add(m);
    if (layer.dense) {
      for (const auto* m : {&layer.dense->gate, &layer.dense->up, &layer.dense->down}) add(*m);
      continue;
    }
    add(gates.weight(static_cast<int32_t>(l)));
    const int64_t routed = c.num_experts_per_tok, shared = c.n_shared_experts;
    active_bytes_ += static_cast<double>(routed * stack_->store(0).ExpertBytes(false));
    if (shared > 0) active_bytes_ += static_cast<double>(stack_->store(0).ExpertBytes(true));
    active_weights_ +=
        static_cast<double>((routed + shared) * 3 * c.hidden_size * c.moe_intermediate_size);
  }
}

Status OfflineModel::Step(std::span<const attention::StepRow> rows,
                          std::span<const int32_t> wanted) {
  const model::ModelConfig& c = stack_->checkpoint().config();
  hidden_.resize(wanted.size() * c.hidden_size);
  logits_.resize(wanted.size() * c.vocab_size);
  ATL_RETURN_IF_ERROR(runner_->Run(rows, block_tables_, 0, wanted, hidden_.data()));
  if (!wanted.empty())
    runner_->Logits(hidden_.data(), static_cast<int64_t>(wanted.size()), logits_.data());
  return absl::OkStatus();
}

uint32_t OfflineModel::BestToken(int64_t i) const {
  const int64_t vocab = stack_->checkpoint().config().vocab_size;
  const auto begin = logits_.begin() + i * vocab;
  return static_cast<uint32_t>(std::max_element(begin, begin + vocab) - begin);
}

uint32_t OfflineModel::PromptToken(int64_t sequence, int64_t position) const {
  return static_cast<uint32_t>((3 + position * 7919 + sequence * 104729) %
                               stack_->checkpoint().config().vocab_size);
}

double OfflineModel::Ops(int64_t position) const {
  const model::ModelConfig& c = stack_->checkpoint().config();
  const double per_key = static_cast<double>(c.num_hidden_layers * c.num_attention_heads *
                                             (2 * c.kv_lora_rank + c.qk_rope_head_dim));
  return 2 * (active_weights_ + per_key * static_cast<double>(position + 1));
}

std::optional<Arithmetic> OfflineModel::Roof() const {
  return ProductArithmetic(isa_, kernels::IsQuantized(stack_->weights().head.format()));
}

double OfflineModel::RoofGops() const {
  const std::optional<Arithmetic> roof = Roof();
  return roof.has_value() ? ArithmeticGops(stack_->ctx().pool, *roof) : 0;
}

}  // namespace atl::bench
