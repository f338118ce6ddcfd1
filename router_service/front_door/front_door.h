// The public API: validation, tokenizing, admission, choice of attention node, replay after
// failures, text of streams.
#pragma once

#include <grpcpp/impl/service_type.h>

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "base/status.h"
#include "model/checkpoint.h"
#include "model/profile.h"
#include "router_service/front_door/attention_directory.h"
#include "router_service/front_door/request_histograms.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace atl::front_door {

struct FrontDoorOptions {
  int max_concurrent_requests = 256;
  int max_queued_requests = 1024;
  // No attention node for this long: UNAVAILABLE.
  absl::Duration coverage_timeout = absl::Seconds(60);
  // No token for this long from a node that runs the sequence: replay elsewhere. Until a run's
  // first token, longer by this much for each token that it has to compute before.
  absl::Duration progress_timeout = absl::Seconds(90);
  absl::Duration prefill_allowance = absl::Milliseconds(200);
  int max_lost_nodes = 3;  // attention nodes lost since the last new token: INTERNAL
  int64_t context_length = 0;
};

// What is served. Constant.
struct ServedModel {
  const model::Checkpoint* checkpoint = nullptr;
  model::NumericProfile profile;
  std::unique_ptr<text::Tokenizer> tokenizer;  // null: FAILED_PRECONDITION naming tokenizer.json
  std::unique_ptr<text::ChatTemplate> chat_template;  // null: `messages` is refused so
  std::string chat_template_error;                    // why it is null, if it failed to parse
};
StatusOr<ServedModel> LoadServedModel(const model::Checkpoint* checkpoint,
                                      const model::NumericProfile& profile);

// What has happened since the start, for metrics.
struct FrontDoorStats {
  std::map<absl::StatusCode, uint64_t> requests;  // ended or refused, by their status
  uint64_t prompt_tokens = 0;                     // of requests that had an answer, as are the rest
  uint64_t cached_prompt_tokens = 0;
  uint64_t replays = 0;  // runs begun beyond the first of each request
};

// Thread-safe. Owns the gRPC services InferenceService and ModelService.
class FrontDoor {
 public:
  FrontDoor(const ServedModel* model, const AttentionDirectory* directory,
            FrontDoorOptions options);
  // REQUIRES: the server of its services has stopped.
  ~FrontDoor();
  std::vector<grpc::Service*> services();

  // The directory has changed: waiting requests look again.
  void OnDirectoryChanged();
  // New calls get UNAVAILABLE + RetryInfo; those running go on. `WaitUntilIdle` waits for them.
  void StopAdmitting();
  int num_running() const;
  int num_queued() const;
  // No request runs or waits; false where `timeout` passes first.
  bool WaitUntilIdle(absl::Duration timeout) const;
  FrontDoorStats stats() const;
  const RequestHistograms& histograms() const;
  // Ends what still runs with UNAVAILABLE + RetryInfo.
  void EndAll();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace atl::front_door
