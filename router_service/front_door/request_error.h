// Why a request is refused or ended, with what helps the caller to act.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "base/status.h"
#include "rpc/status.h"

namespace atl::front_door {

struct RequestError {
  Status status;                                // OK: no error
  std::vector<rpc::FieldViolation> violations;  // INVALID_ARGUMENT: one a bad field
  std::optional<absl::Duration> retry_after;    // RESOURCE_EXHAUSTED, UNAVAILABLE

  bool ok() const { return status.ok(); }

  static RequestError Of(Status status) { return {.status = std::move(status)}; }
  static RequestError BadFields(std::vector<rpc::FieldViolation> violations);
  static RequestError BadField(std::string field, std::string description) {
    return BadFields({{std::move(field), std::move(description)}});
  }
  static RequestError RetryLater(Status status, absl::Duration delay) {
    return {.status = std::move(status), .retry_after = delay};
  }
};

// With google.rpc details.
grpc::Status ToGrpc(const RequestError& error);

// What a caller sent, fit for a message: escaped, cut after 80 bytes.
std::string Quoted(std::string_view text);

}  // namespace atl::front_door
