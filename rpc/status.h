// The one table between absl::Status and gRPC: codes, details, what may be tried again.
#pragma once

#include <grpcpp/support/status.h>

#include <string>
#include <vector>

#include "absl/time/time.h"
#include "base/status.h"

namespace atl::rpc {

grpc::Status ToGrpc(const Status& status);    // same code, same text
Status FromGrpc(const grpc::Status& status);  // an empty text becomes the name of the code

struct FieldViolation {
  std::string field;        // as in the proto: "sampling.top_p", "messages.messages[2].role"
  std::string description;  // expected and found
};

// INVALID_ARGUMENT with google.rpc.BadRequest.
grpc::Status BadRequest(const std::vector<FieldViolation>& violations);
// The status with google.rpc.RetryInfo.
grpc::Status WithRetryInfo(const Status& status, absl::Duration retry_delay);
// RetryInfo's delay if the status carries one, else zero.
absl::Duration RetryDelay(const grpc::Status& status);

// UNAVAILABLE and RESOURCE_EXHAUSTED: another node, or the same later, may succeed.
bool IsRetryable(const Status& status);

}  // namespace atl::rpc
