#include "rpc/status.h"

#include <algorithm>
#include <cstdint>

#include "absl/strings/str_join.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"

namespace atl::rpc {
namespace {

// The details travel as a google.rpc.Status beside code and message, and say both once more.
grpc::Status WithDetail(grpc::StatusCode code, const std::string& message,
                        const google::protobuf::Message& detail) {
  google::rpc::Status full;
  full.set_code(code);
  full.set_message(message);
  full.add_details()->PackFrom(detail);
  return grpc::Status(code, message, full.SerializeAsString());
}

}  // namespace

grpc::Status ToGrpc(const Status& status) {
  if (status.ok()) return grpc::Status::OK;
  return grpc::Status(static_cast<grpc::StatusCode>(status.raw_code()),
                      std::string(status.message()));
}

Status FromGrpc(const grpc::Status& status) {
  if (status.ok()) return absl::OkStatus();
  const auto code = static_cast<absl::StatusCode>(status.error_code());
  return Status(code, status.error_message().empty() ? absl::StatusCodeToString(code)
                                                     : status.error_message());
}

grpc::Status BadRequest(const std::vector<FieldViolation>& violations) {
  google::rpc::BadRequest detail;
  for (const FieldViolation& violation : violations) {
    auto* out = detail.add_field_violations();
    out->set_field(violation.field);
    out->set_description(violation.description);
  }
  const std::string message =
      absl::StrJoin(violations, "; ", [](std::string* out, const FieldViolation& v) {
        out->append(v.field + ": " + v.description);
      });
  return WithDetail(grpc::StatusCode::INVALID_ARGUMENT, message, detail);
}

grpc::Status WithRetryInfo(const Status& status, absl::Duration retry_delay) {
  google::rpc::RetryInfo detail;
  const int64_t ns = std::max<int64_t>(absl::ToInt64Nanoseconds(retry_delay), 0);
  detail.mutable_retry_delay()->set_seconds(ns / 1'000'000'000);
  detail.mutable_retry_delay()->set_nanos(static_cast<int32_t>(ns % 1'000'000'000));
  return WithDetail(static_cast<grpc::StatusCode>(status.raw_code()), std::string(status.message()),
                    detail);
}

absl::Duration RetryDelay(const grpc::Status& status) {
  google::rpc::Status full;
  if (!full.ParseFromString(status.error_details())) return absl::ZeroDuration();
  for (const google::protobuf::Any& any : full.details()) {
    google::rpc::RetryInfo info;
    if (any.UnpackTo(&info)) {
      return absl::Seconds(info.retry_delay().seconds()) +
             absl::Nanoseconds(info.retry_delay().nanos());
    }
  }
  return absl::ZeroDuration();
}

bool IsRetryable(const Status& status) {
  return absl::IsUnavailable(status) || absl::IsResourceExhausted(status);
}

}  // namespace atl::rpc
