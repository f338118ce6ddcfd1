#include "router_service/front_door/request_error.h"

#include "absl/strings/escaping.h"

namespace atl::front_door {

RequestError RequestError::BadFields(std::vector<rpc::FieldViolation> violations) {
  if (violations.empty()) return {};
  Status status = InvalidArgument("%s: %s", violations[0].field, violations[0].description);
  return {.status = std::move(status), .violations = std::move(violations)};
}

grpc::Status ToGrpc(const RequestError& error) {
  if (!error.violations.empty()) return rpc::BadRequest(error.violations);
  if (error.retry_after.has_value()) return rpc::WithRetryInfo(error.status, *error.retry_after);
  return rpc::ToGrpc(error.status);
}

std::string Quoted(std::string_view text) {
  constexpr size_t kMaxBytes = 80;
  const std::string_view head = text.substr(0, kMaxBytes);
  return absl::StrFormat("'%s%s'", absl::CHexEscape({head.data(), head.size()}),
                         text.size() > kMaxBytes ? "..." : "");
}

}  // namespace atl::front_door
