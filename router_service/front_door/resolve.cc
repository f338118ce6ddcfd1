#include "router_service/front_door/resolve.h"

#include <algorithm>
#include <optional>
#include <set>

#include "absl/strings/str_format.h"
#include "router_service/front_door/validate.h"

namespace atl::front_door {
namespace {

namespace pb = atollpb::v1;

template <typename T>
T Choose(bool has, T value, const std::optional<T>& from_config, T fallback) {
  return has ? value : from_config.value_or(fallback);
}

uint32_t MaxTokens(const pb::GenerateRequest& request, int64_t prompt_tokens,
                   int64_t context_length) {
  const uint32_t left = static_cast<uint32_t>(context_length - prompt_tokens);
  return request.has_max_tokens() ? std::min(request.max_tokens(), left) : left;
}

int32_t LogprobsOrNone(bool has, uint32_t value) { return has ? static_cast<int32_t>(value) : -1; }

}  // namespace

pb::ResolvedSampling ResolveSampling(const pb::SamplingParams& params,
                                     const model::GenerationConfig& config,
                                     const std::function<uint64_t()>& random) {
  pb::ResolvedSampling out;
  std::optional<float> temperature = config.temperature;
  if (config.do_sample == false) temperature = 0.0f;
  out.set_temperature(Choose(params.has_temperature(), params.temperature(), temperature, 1.0f));
  out.set_top_p(Choose(params.has_top_p(), params.top_p(), config.top_p, 1.0f));
  out.set_top_k(Choose(params.has_top_k(), params.top_k(), config.top_k, 0u));
  out.set_min_p(Choose(params.has_min_p(), params.min_p(), config.min_p, 0.0f));
  out.set_repetition_penalty(Choose(params.has_repetition_penalty(), params.repetition_penalty(),
                                    config.repetition_penalty, 1.0f));
  out.set_presence_penalty(params.presence_penalty());
  out.set_frequency_penalty(params.frequency_penalty());
  out.set_seed(params.has_seed() ? params.seed() : random());
  *out.mutable_logit_bias() = params.logit_bias();
  return out;
}

ResolvedRequest Resolve(const pb::GenerateRequest& request, const std::vector<uint32_t>& prompt_ids,
                        const ResolveContext& context) {
  ResolvedRequest out;
  out.request_id = request.request_id();
  if (out.request_id.empty())
    out.request_id = absl::StrFormat("%016x%016x", context.random(), context.random());
  out.stop.assign(request.stop().begin(), request.stop().end());

  pb::RunStart& start = out.start;
  // Clients may send one request_id twice, at the same time or after a broken stream; nodes fence
  // by this name.
  start.set_request_id(absl::StrFormat("%s#%016x", out.request_id, context.random()));
  start.set_revision(context.revision);
  start.set_numerics_id(context.numerics_id);
  start.mutable_prompt_ids()->Add(prompt_ids.begin(), prompt_ids.end());
  if (context.expands_prompts) out.num_expanded = static_cast<int64_t>(prompt_ids.size());
  *start.mutable_generated_ids() = request.resume_from().ids();
  *start.mutable_sampling() =
      ResolveSampling(request.sampling(), context.generation_config, context.random);
  start.set_max_tokens(
      MaxTokens(request, static_cast<int64_t>(prompt_ids.size()), context.context_length));
  std::set<uint32_t> ends(request.stop_token_ids().begin(), request.stop_token_ids().end());
  if (!request.ignore_eos())
    ends.insert(context.eos_token_ids.begin(), context.eos_token_ids.end());
  start.mutable_stop_token_ids()->Add(ends.begin(), ends.end());
  start.set_logprobs(LogprobsOrNone(request.has_logprobs(), request.logprobs()));
  // Prompt logprobs come with the first tokens: who resumes has them.
  const bool resumes = request.resume_from().ids_size() > 0;
  start.set_prompt_logprobs(
      LogprobsOrNone(request.has_prompt_logprobs() && !resumes, request.prompt_logprobs()));
  start.set_bias_version(kBiasVersion);
  return out;
}

}  // namespace atl::front_door
