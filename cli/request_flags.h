// Flags of the commands that ask a server: where it is, how to sample.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "atollpb/v1/inference.pb.h"
#include "base/status.h"
#include "cli/api_client.h"
#include "cli/flag_set.h"

namespace atl::cli {

struct AddressFlags {
  std::vector<std::string> addresses = {"127.0.0.1:8470"};
  absl::Duration timeout = absl::InfiniteDuration();
};
void AddAddressFlags(FlagSet* flags, AddressFlags* values);
// InvalidArgument says which address is none.
StatusOr<ApiClientOptions> ToClientOptions(const AddressFlags& values);

// For ApiClientOptions::on_retry: says on stderr that the client tries again and why, each reason
// once.
std::function<void(const Status&)> RetryNotice(const std::string& command);

struct SamplingFlags {
  std::optional<float> temperature, top_p, min_p;
  std::optional<float> repetition_penalty, presence_penalty, frequency_penalty;
  std::optional<uint32_t> top_k, max_tokens;
  std::optional<uint64_t> seed;
  std::vector<std::string> logit_bias;  // ID=VALUE
  std::vector<std::string> stop;
  std::vector<std::string> stop_token_ids;
  bool ignore_eos = false;
};
void AddSamplingFlags(FlagSet* flags, SamplingFlags* values);
// Sets only what was said: the rest is the server's default. InvalidArgument says which flag is
// wrong.
Status ApplySampling(const SamplingFlags& values, atollpb::v1::GenerateRequest* request);

// Ids of "1", "2", ...: InvalidArgument names `flag` and the word that is none.
StatusOr<atollpb::v1::TokenIds> ParseTokenIds(const std::string& flag,
                                              const std::vector<std::string>& words);

// What a protobuf string may hold. InvalidArgument: `what` is no UTF-8; it says which byte is
// wrong.
Status CheckUtf8(const std::string& what, const std::string& text);
// All of standard input.
std::string ReadStandardInput();

}  // namespace atl::cli
