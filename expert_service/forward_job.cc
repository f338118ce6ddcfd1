#include "expert_service/forward_job.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/dtype.h"

namespace atl::expert {
namespace {

constexpr int64_t kMaxOutBytes = int64_t{60} << 20;  // below rpc::kMaxMessageBytes

Status CheckSizes(const atollpb::v1::ForwardRequest& request, const model::ModelConfig& config) {
  const int64_t row_bytes = config.hidden_size * static_cast<int64_t>(sizeof(float));
  if (request.x().empty() || request.x().size() % row_bytes != 0) {
    return InvalidArgument("x has %d bytes, expected rows of %d float32 values, %d bytes each",
                           request.x().size(), config.hidden_size, row_bytes);
  }
  if (request.row_size() != request.expert_size() || request.row_size() == 0) {
    return InvalidArgument(
        "%d rows and %d experts: expected as many of both, and at least one pair",
        request.row_size(), request.expert_size());
  }
  if (request.row_size() > kMaxOutBytes / row_bytes) {
    return InvalidArgument("%d pairs of %d bytes: expected at most %d bytes of outs",
                           request.row_size(), row_bytes, kMaxOutBytes);
  }
  const int64_t layers = config.num_hidden_layers + config.num_nextn_predict_layers;
  if (request.layer() >= layers || !config.is_moe_layer(request.layer())) {
    return InvalidArgument("layer %d has no experts", request.layer());
  }
  const int64_t rows = request.x().size() / row_bytes;
  for (int i = 0; i < request.row_size(); ++i) {
    if (request.row(i) >= rows || request.expert(i) >= config.num_expert_ids()) {
      return InvalidArgument("pair %d: row %d of %d, expert %d of %d", i, request.row(i), rows,
                             request.expert(i), config.num_expert_ids());
    }
  }
  return absl::OkStatus();
}

}  // namespace

StatusOr<ForwardJob> ForwardJob::Make(const atollpb::v1::ForwardRequest& request,
                                      const model::ModelConfig& config,
                                      const model::NumericProfile& profile) {
  ATL_RETURN_IF_ERROR(CheckSizes(request, config));
  ForwardJob job{.layer = static_cast<int32_t>(request.layer()), .hidden_size = config.hidden_size};
  job.x.resize(request.x().size() / sizeof(float));
  std::memcpy(job.x.data(), request.x().data(), request.x().size());
  if (profile.wire == DType::kBf16)
    std::transform(job.x.begin(), job.x.end(), job.x.begin(), RoundToBf16);
  job.rows = static_cast<int64_t>(job.x.size()) / config.hidden_size;

  using Key = std::pair<uint32_t, uint32_t>;  // (expert, row)
  std::vector<Key> keys;
  for (int i = 0; i < request.row_size(); ++i) keys.emplace_back(request.expert(i), request.row(i));
  std::vector<Key> sorted = keys;
  std::sort(sorted.begin(), sorted.end());
  sorted.erase(std::unique(sorted.begin(), sorted.end()), sorted.end());
  for (const auto& [expert, row] : sorted) job.pairs.push_back({.row = row, .expert = expert});
  for (const Key& key : keys) {
    job.place.push_back(std::lower_bound(sorted.begin(), sorted.end(), key) - sorted.begin());
  }
  return job;
}

StatusOr<std::string> ForwardJob::Run(ExpertEngine* engine) const {
  std::vector<float> out(pairs.size() * hidden_size);
  ATL_RETURN_IF_ERROR(engine->Compute(layer, rows, x.data(), pairs, out.data()));
  const size_t row_bytes = hidden_size * sizeof(float);
  std::string bytes(place.size() * row_bytes, '\0');
  for (size_t i = 0; i < place.size(); ++i) {
    std::memcpy(bytes.data() + i * row_bytes, out.data() + place[i] * hidden_size, row_bytes);
  }
  return bytes;
}

}  // namespace atl::expert
