#include "expert_service/expert_store.h"

#include <string>

#include "weights/load_packed.h"

namespace atl::expert {
namespace {

int64_t NumLayers(const model::ModelConfig& config) {
  return config.num_hidden_layers + config.num_nextn_predict_layers;
}

}  // namespace

ExpertStore::ExpertStore(const model::Checkpoint* checkpoint, const model::NumericProfile& profile,
                         int64_t budget_bytes, weights::PackedCache* cache)
    : checkpoint_(checkpoint), profile_(profile), budget_bytes_(budget_bytes), cache_(cache) {
  const model::ModelConfig& config = checkpoint->config();
  held_.resize(NumLayers(config));
  for (auto& layer : held_) layer.resize(config.num_expert_ids());
}

Status ExpertStore::Load(ExpertKey key, ThreadPool* pool) {
  const model::ModelConfig& config = checkpoint_->config();
  if (key.layer < 0 || key.layer >= NumLayers(config) || !config.is_moe_layer(key.layer) ||
      key.expert < 0 || key.expert >= config.num_expert_ids()) {
    return InvalidArgument("%s has no expert %d in layer %d", checkpoint_->name(), key.expert,
                           key.layer);
  }
  const int64_t bytes = ExpertBytes(key.expert == config.shared_expert_id());
  {
    absl::MutexLock lock(&mu_);
    if (held_[key.layer][key.expert] != nullptr) return absl::OkStatus();
    if (budget_bytes_ > 0 && bytes_held_ + bytes > budget_bytes_) {
      return ResourceExhausted(
          "expert %d of layer %d takes %d bytes: %d of the budget of %d are taken", key.expert,
          key.layer, bytes, bytes_held_, budget_bytes_);
    }
    bytes_held_ += bytes;  // reserved while it is read, without the lock
  }
  StatusOr<kernels::FfnWeights> weights =
      weights::LoadFfn(*checkpoint_, model::ExpertPrefix(config, key.layer, key.expert),
                       profile_.weights, pool, cache_);
  std::shared_ptr<HeldExpert> expert;
  if (weights.ok()) {
    expert = std::make_shared<HeldExpert>();
    expert->weights = *std::move(weights);
    expert->bytes = bytes;
  }
  absl::MutexLock lock(&mu_);
  std::shared_ptr<HeldExpert>& place = held_[key.layer][key.expert];
  if (!weights.ok() || place != nullptr) {  // place: another thread was faster
    bytes_held_ -= bytes;
    return weights.status();
  }
  place = std::move(expert);
  ++version_;
  return absl::OkStatus();
}

Status ExpertStore::Unload(ExpertKey key) {
  std::shared_ptr<HeldExpert> dropped;  // its memory is freed after the lock
  absl::MutexLock lock(&mu_);
  if (key.layer >= 0 && key.layer < static_cast<int64_t>(held_.size()) && key.expert >= 0 &&
      key.expert < static_cast<int64_t>(held_[key.layer].size())) {
    dropped.swap(held_[key.layer][key.expert]);
  }
  if (dropped == nullptr)
    return NotFound("expert %d of layer %d is not held", key.expert, key.layer);
  bytes_held_ -= dropped->bytes;
  ++version_;
  return absl::OkStatus();
}

std::shared_ptr<HeldExpert> ExpertStore::Find(ExpertKey key) const {
  absl::ReaderMutexLock lock(&mu_);
  if (key.layer < 0 || key.layer >= static_cast<int64_t>(held_.size())) return nullptr;
  const auto& layer = held_[key.layer];
  return key.expert < 0 || key.expert >= static_cast<int64_t>(layer.size()) ? nullptr
                                                                            : layer[key.expert];
}

std::vector<std::pair<ExpertKey, std::shared_ptr<HeldExpert>>> ExpertStore::List() const {
  std::vector<std::pair<ExpertKey, std::shared_ptr<HeldExpert>>> out;
  absl::ReaderMutexLock lock(&mu_);
  for (size_t layer = 0; layer < held_.size(); ++layer) {
    for (size_t expert = 0; expert < held_[layer].size(); ++expert) {
      if (held_[layer][expert] == nullptr) continue;
      out.emplace_back(ExpertKey{static_cast<int32_t>(layer), static_cast<int32_t>(expert)},
                       held_[layer][expert]);
    }
  }
  return out;
}

int64_t ExpertStore::bytes_held() const {
  absl::ReaderMutexLock lock(&mu_);
  return bytes_held_;
}

uint64_t ExpertStore::version() const {
  absl::ReaderMutexLock lock(&mu_);
  return version_;
}

int64_t ExpertStore::ExpertBytes(bool shared) const {
  const model::ModelConfig& config = checkpoint_->config();
  int64_t layer = 0;
  while (layer < NumLayers(config) && !config.is_moe_layer(layer)) ++layer;
  if (layer == NumLayers(config) || (shared && config.n_shared_experts == 0)) return 0;
  const std::string prefix =
      model::ExpertPrefix(config, layer, shared ? config.shared_expert_id() : 0);
  const int64_t f = config.moe_intermediate_size * (shared ? config.n_shared_experts : 1);
  const auto bytes = [&](const char* tensor, int64_t n, int64_t k) {
    return kernels::PackedMatrix::Bytes(
        weights::PackedFormat(*checkpoint_, prefix + tensor, profile_.weights), n, k);
  };
  return bytes("gate_proj.weight", f, config.hidden_size) +
         bytes("up_proj.weight", f, config.hidden_size) +
         bytes("down_proj.weight", config.hidden_size, f);
}

}  // namespace atl::expert
