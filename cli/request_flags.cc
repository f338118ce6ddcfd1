#include "cli/request_flags.h"

#include <unistd.h>

#include <cstdio>
#include <set>
#include <string_view>

#include "absl/strings/numbers.h"
#include "rpc/address.h"
#include "text/utf8.h"

namespace atl::cli {

void AddAddressFlags(FlagSet* flags, AddressFlags* values) {
  flags->Add("--address", &values->addresses,
             "routers, HOST:PORT; the next one is used when one fails");
  flags->Add("--timeout", &values->timeout, "longest time for one request");
}

StatusOr<ApiClientOptions> ToClientOptions(const AddressFlags& values) {
  if (values.addresses.empty())
    return InvalidArgument("--address: expected HOST:PORT, found nothing");
  for (const std::string& address : values.addresses) {
    ATL_RETURN_IF_ERROR(Annotate(rpc::ParseHostPort(address).status(), "--address"));
  }
  return ApiClientOptions{.addresses = values.addresses, .timeout = values.timeout};
}

std::function<void(const Status&)> RetryNotice(const std::string& command) {
  return [command, told = std::set<std::string>()](const Status& why) mutable {
    const std::string reason(why.message());
    if (!told.insert(reason).second) return;
    std::fprintf(stderr, "%s: %s; trying again\n", command.c_str(), reason.c_str());
  };
}

void AddSamplingFlags(FlagSet* flags, SamplingFlags* values) {
  flags->Add("--max-tokens", &values->max_tokens,
             "tokens to generate at most; absent: what is left of the context");
  flags->Add("--temperature", &values->temperature,
             "0 is greedy; absent, here and below: the checkpoint's default");
  flags->Add("--top-p", &values->top_p, "smallest set of tokens whose probability reaches this");
  flags->Add("--top-k", &values->top_k, "this many most likely tokens; 0: all");
  flags->Add("--min-p", &values->min_p,
             "drop tokens less likely than this share of the most likely one");
  flags->Add("--repetition-penalty", &values->repetition_penalty,
             "divides logits of tokens seen before");
  flags->Add("--presence-penalty", &values->presence_penalty,
             "subtracted once from logits of generated tokens");
  flags->Add("--frequency-penalty", &values->frequency_penalty,
             "subtracted for each time a token was generated");
  flags->Add("--seed", &values->seed, "the same seed and request give the same tokens");
  flags->Add("--logit-bias", &values->logit_bias, "ID=VALUE, added to the logit of each id");
  flags->AddRepeated("--stop", &values->stop, "end before this text; may be given again");
  flags->Add("--stop-token-ids", &values->stop_token_ids, "end with one of these ids");
  flags->AddSwitch("--ignore-eos", &values->ignore_eos, "do not end at end-of-sequence ids");
}

Status ApplySampling(const SamplingFlags& values, atollpb::v1::GenerateRequest* request) {
  auto* sampling = request->mutable_sampling();
  if (values.temperature) sampling->set_temperature(*values.temperature);
  if (values.top_p) sampling->set_top_p(*values.top_p);
  if (values.top_k) sampling->set_top_k(*values.top_k);
  if (values.min_p) sampling->set_min_p(*values.min_p);
  if (values.repetition_penalty) sampling->set_repetition_penalty(*values.repetition_penalty);
  if (values.presence_penalty) sampling->set_presence_penalty(*values.presence_penalty);
  if (values.frequency_penalty) sampling->set_frequency_penalty(*values.frequency_penalty);
  if (values.seed) sampling->set_seed(*values.seed);
  if (values.max_tokens) request->set_max_tokens(*values.max_tokens);
  request->set_ignore_eos(values.ignore_eos);
  for (const std::string& stop : values.stop) {
    ATL_RETURN_IF_ERROR(CheckUtf8("--stop", stop));
    request->add_stop(stop);
  }
  ATL_ASSIGN_OR_RETURN(const auto stop_ids,
                       ParseTokenIds("--stop-token-ids", values.stop_token_ids));
  *request->mutable_stop_token_ids() = stop_ids.ids();
  for (const std::string& entry : values.logit_bias) {
    const size_t equals = entry.find('=');
    uint32_t id;
    float bias;
    if (equals == std::string::npos || !absl::SimpleAtoi(entry.substr(0, equals), &id) ||
        !absl::SimpleAtof(entry.substr(equals + 1), &bias)) {
      return InvalidArgument("--logit-bias: expected ID=VALUE, found \"%s\"", entry);
    }
    (*sampling->mutable_logit_bias())[id] = bias;
  }
  return absl::OkStatus();
}

StatusOr<atollpb::v1::TokenIds> ParseTokenIds(const std::string& flag,
                                              const std::vector<std::string>& words) {
  atollpb::v1::TokenIds ids;
  for (const std::string& word : words) {
    uint32_t id;
    if (!absl::SimpleAtoi(word, &id))
      return InvalidArgument("%s: expected a token id, found \"%s\"", flag, word);
    ids.add_ids(id);
  }
  return ids;
}

Status CheckUtf8(const std::string& what, const std::string& text) {
  for (size_t at = 0; at < text.size();) {
    const text::Utf8Piece piece = text::NextPiece(std::string_view(text).substr(at));
    if (piece.kind != text::Utf8Piece::kCharacter) {
      return InvalidArgument("%s: expected UTF-8, found the byte 0x%02x at offset %d", what,
                             static_cast<unsigned char>(text[at]), at);
    }
    at += piece.length;
  }
  return absl::OkStatus();
}

std::string ReadStandardInput() {
  std::string all;
  char bytes[65536];
  ssize_t size;
  while ((size = read(STDIN_FILENO, bytes, sizeof bytes)) > 0) all.append(bytes, size);
  return all;
}

}  // namespace atl::cli
