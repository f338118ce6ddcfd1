#include "local/offline_forward.h"

#include <algorithm>
#include <numeric>

namespace atl::local {

using attention::BlockId;
using attention::StepRow;
using kernels::kCacheBlock;

OfflineForward::OfflineForward(LocalStack* stack, int64_t max_positions)
    : stack_(stack),
      cache_(attention::CacheShape(stack->checkpoint().config(), stack->profile(),
                                   stack->weights().softmax_scale),
             stack->weights().layers.size(), (max_positions + kCacheBlock - 1) / kCacheBlock),
      runner_(stack->ctx(), &stack->weights(), &cache_, stack->fabric(),
              stack->engine_options().micro_batches,
              /*min_micro_batch_rows=*/32) {
  for (int64_t i = 0; i < cache_.num_blocks(); ++i) blocks_.push_back(*cache_.Acquire());
}

Status OfflineForward::Logits(std::span<const uint32_t> ids, int64_t chunk,
                              std::vector<float>* logits, std::vector<float>* final_hidden) {
  const int64_t total = ids.size(), vocab = stack_->checkpoint().config().vocab_size,
                d = stack_->checkpoint().config().hidden_size;
  if (total > cache_.num_blocks() * kCacheBlock) {
    return InvalidArgument("text of %d tokens, expected at most %d", total,
                           cache_.num_blocks() * kCacheBlock);
  }
  for (int64_t i = 0; i < total; ++i) {
    if (ids[i] >= vocab) {
      return InvalidArgument("id %d at position %d, expected an id below the vocabulary's size %d",
                             ids[i], i, vocab);
    }
  }
  logits->resize(total * vocab);
  if (final_hidden != nullptr) final_hidden->resize(total * d);
  const std::span<const BlockId> table(blocks_);
  for (int64_t begin = 0; begin < total; begin += chunk) {
    const int64_t count = std::min(chunk, total - begin);
    std::vector<StepRow> rows(count);
    for (int64_t i = 0; i < count; ++i)
      rows[i] = {ids[begin + i], static_cast<int32_t>(begin + i), 0};
    std::vector<int32_t> wanted(count);
    std::iota(wanted.begin(), wanted.end(), 0);
    std::vector<float> hidden(count * d);
    ATL_RETURN_IF_ERROR(runner_.Run(rows, std::span(&table, 1), 0, wanted, hidden.data()));
    runner_.Logits(hidden.data(), count, logits->data() + begin * vocab);
    if (final_hidden != nullptr)
      std::copy(hidden.begin(), hidden.end(), final_hidden->begin() + begin * d);
  }
  return absl::OkStatus();
}

Status OfflineForward::MtpLogits(std::span<const uint32_t> ids, std::vector<float>* logits) {
  std::vector<float> main_logits, final_hidden;
  ATL_RETURN_IF_ERROR(Logits(ids, 512, &main_logits, &final_hidden));
  const int64_t count = static_cast<int64_t>(ids.size()) - 1;
  // Row i holds token i + 1. Its cache position is i: only differences of positions matter to the
  // rotation, and the layer's cache then begins at position 0 as every cache does.
  std::vector<StepRow> rows(count);
  for (int64_t i = 0; i < count; ++i) rows[i] = {ids[i + 1], static_cast<int32_t>(i), 0};
  const model::ModelConfig& c = stack_->checkpoint().config();
  std::vector<float> state(count * c.hidden_size);
  const std::span<const BlockId> table(blocks_);
  ATL_RETURN_IF_ERROR(runner_.RunMtp(rows, std::span(&table, 1), 0, final_hidden.data(),
                                     absl::InfiniteFuture(), state.data()));
  logits->resize(count * c.vocab_size);
  runner_.Logits(state.data(), count, logits->data());
  return absl::OkStatus();
}

}  // namespace atl::local
