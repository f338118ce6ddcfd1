// Checks every field of a request before anything is done with it.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "atollpb/v1/inference.pb.h"
#include "router_service/front_door/request_error.h"

namespace atl::front_door {

// Bounds that inference.proto leaves to the server.
inline constexpr int kMaxLogprobs = 20;
inline constexpr int kMaxStopStrings = 16;
inline constexpr size_t kMaxStopBytes = 1024;      // of one stop string
inline constexpr size_t kMaxRequestIdBytes = 128;  // printable ASCII
inline constexpr size_t kMaxMessages = 4096;
// The only bias overlay there is: the checkpoint's own.
inline constexpr uint64_t kBiasVersion = 0;

// What the model sets bounds by.
struct ModelLimits {
  std::string name;
  int64_t vocab_size = 0;
  int64_t context_length = 0;
  int64_t max_prompt_bytes =
      0;  // of a text, or of all messages: more cannot fit the context; 0: not known
  bool has_tokenizer = false;
  bool has_chat_template = false;
  std::string chat_template_error;  // why there is none; empty: the checkpoint has none
};

// NOT_FOUND (another model), INVALID_ARGUMENT (every bad field; one violation a field, of a list
// its first bad item), FAILED_PRECONDITION (what the checkpoint cannot do; a bias version that
// nobody holds), in this order.
RequestError ValidateRequest(const atollpb::v1::GenerateRequest& request,
                             const ModelLimits& limits);

// Parts of it that other calls share: violations are appended with `field` in front.
void CheckText(const std::string& field, std::string_view text, const ModelLimits& limits,
               std::vector<rpc::FieldViolation>* violations);
void CheckMessages(const std::string& field, const atollpb::v1::Messages& messages,
                   const ModelLimits& limits, std::vector<rpc::FieldViolation>* violations);
template <typename Ids>
void CheckIds(const std::string& field, const Ids& ids, const ModelLimits& limits,
              std::vector<rpc::FieldViolation>* violations) {
  for (int i = 0; i < static_cast<int>(ids.size()); ++i) {
    if (static_cast<int64_t>(ids[i]) < limits.vocab_size) continue;
    violations->push_back(
        {absl::StrFormat("%s[%d]", field, i),
         absl::StrFormat("expected an id below the vocabulary's size %d, found %d",
                         limits.vocab_size, static_cast<int64_t>(ids[i]))});
    return;
  }
}

// FAILED_PRECONDITION naming the missing file.
Status NeedTokenizer(const ModelLimits& limits, const std::string& what);
Status NeedChatTemplate(const ModelLimits& limits);

// After tokenizing: the prompt is not empty, and prompt and resumed tokens fit the context. `field`
// is the prompt's.
RequestError CheckLength(const std::string& field, int64_t prompt_tokens, int64_t resumed_tokens,
                         const ModelLimits& limits);

}  // namespace atl::front_door
