// From a valid request to a run with nothing left open: what is absent takes
// generation_config.json, then the defaults named in inference.proto.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "atollpb/v1/attention.pb.h"
#include "atollpb/v1/inference.pb.h"
#include "model/config.h"

namespace atl::front_door {

struct ResolvedRequest {
  std::string request_id;         // as told to the client
  atollpb::v1::RunStart start;    // run_number 0; generated_ids are those of resume_from
  std::vector<std::string> stop;  // stop strings
  int64_t num_expanded = 0;       // as attention::PrefixHashes counts
};

// What all requests share.
struct ResolveContext {
  std::string revision;
  std::string numerics_id;
  bool expands_prompts = false;  // the profile does
  model::GenerationConfig generation_config;
  std::vector<uint32_t> eos_token_ids;
  int64_t context_length = 0;
  std::function<uint64_t()> random;  // thread-safe; 64 bits that nobody can foresee
};

atollpb::v1::ResolvedSampling ResolveSampling(const atollpb::v1::SamplingParams& params,
                                              const model::GenerationConfig& config,
                                              const std::function<uint64_t()>& random);

// REQUIRES: ValidateRequest and CheckLength passed.
ResolvedRequest Resolve(const atollpb::v1::GenerateRequest& request,
                        const std::vector<uint32_t>& prompt_ids, const ResolveContext& context);

}  // namespace atl::front_door
