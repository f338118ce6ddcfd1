// A GenerateRequest as it comes off the wire: refused with the fields that are wrong, or resolved
// to a run with nothing out of range.

#include <cmath>
#include <vector>

#include "base/check.h"
#include "router_service/front_door/request_error.h"
#include "router_service/front_door/resolve.h"
#include "router_service/front_door/validate.h"
#include "tests/fuzz/input.h"

namespace atl::front_door {
namespace {

namespace pb = atollpb::v1;

constexpr int64_t kContext = 64;

ModelLimits Limits(bool has_tokenizer) {
  return {.name = "demo",
          .vocab_size = 1000,
          .context_length = kContext,
          .max_prompt_bytes = has_tokenizer ? 512 : 0,
          .has_tokenizer = has_tokenizer,
          .has_chat_template = has_tokenizer};
}

void CheckRun(const ResolvedRequest& resolved, const ModelLimits& limits) {
  const pb::RunStart& start = resolved.start;
  ATL_CHECK(!resolved.request_id.empty());
  ATL_CHECK(resolved.stop.size() <= kMaxStopStrings);
  ATL_CHECK(start.prompt_ids_size() + start.max_tokens() <= kContext);
  ATL_CHECK(start.logprobs() >= -1 && start.logprobs() <= kMaxLogprobs);
  ATL_CHECK(start.prompt_logprobs() >= -1 && start.prompt_logprobs() <= kMaxLogprobs);
  for (const auto* ids : {&start.prompt_ids(), &start.generated_ids(), &start.stop_token_ids()}) {
    for (const uint32_t id : *ids) ATL_CHECK(id < limits.vocab_size);
  }
  const pb::ResolvedSampling& sampling = start.sampling();
  ATL_CHECK(std::isfinite(sampling.temperature()) && sampling.temperature() >= 0);
  ATL_CHECK(sampling.top_p() > 0 && sampling.top_p() <= 1);
  ATL_CHECK(sampling.min_p() >= 0 && sampling.min_p() <= 1);
  ATL_CHECK(std::isfinite(sampling.repetition_penalty()) && sampling.repetition_penalty() > 0);
  ATL_CHECK(std::abs(sampling.presence_penalty()) <= 2);
  ATL_CHECK(std::abs(sampling.frequency_penalty()) <= 2);
  for (const auto& [id, bias] : sampling.logit_bias())
    ATL_CHECK(id < limits.vocab_size && std::isfinite(bias));
}

// A refusal names what is wrong, and turns into a status that gRPC can send.
void CheckRefusal(const RequestError& error) {
  ATL_CHECK(!error.ok() && !error.status.message().empty());
  ATL_CHECK(absl::IsInvalidArgument(error.status) == !error.violations.empty());
  for (const rpc::FieldViolation& violation : error.violations)
    ATL_CHECK(!violation.field.empty() && !violation.description.empty());
  ATL_CHECK(!ToGrpc(error).ok());
}

void TryLimits(const pb::GenerateRequest& request, const ModelLimits& limits) {
  RequestError error = ValidateRequest(request, limits);
  std::vector<uint32_t> prompt(request.token_ids().ids().begin(), request.token_ids().ids().end());
  if (!request.has_token_ids()) prompt.assign(3, 1);  // what a tokenizer might give
  if (error.ok()) {
    error = CheckLength("prompt", static_cast<int64_t>(prompt.size()),
                        request.resume_from().ids_size(), limits);
  }
  if (!error.ok()) return CheckRefusal(error);
  ResolveContext context = {.revision = "revision",
                            .numerics_id = "q8/1/cpu",
                            .eos_token_ids = {2},
                            .context_length = kContext,
                            .random = [] { return uint64_t{7}; }};
  CheckRun(Resolve(request, prompt, context), limits);
}

void TryRequest(fuzz::Input input) {
  const std::string_view bytes = input.Rest();
  pb::GenerateRequest request;
  if (!request.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) return;
  for (const bool has_tokenizer : {false, true}) TryLimits(request, Limits(has_tokenizer));
}

}  // namespace
}  // namespace atl::front_door

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  atl::front_door::TryRequest({data, size});
  return 0;
}
