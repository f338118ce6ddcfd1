// Errors: absl::Status at every boundary of a folder; no exceptions.
//
// Debian's absl::string_view is a type of its own, so messages are made with absl::StrFormat, which
// takes std::string and std::string_view alike, and handed over as std::string.
#pragma once

#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_format.h"

namespace atl {

using Status = absl::Status;
template <typename T>
using StatusOr = absl::StatusOr<T>;

// InvalidArgument("layer %d: expected %d", ...) and so on: one line an error, both sides named.
#define ATL_DEFINE_ERROR(Name)                                                \
  template <typename... Args>                                                 \
  Status Name(const absl::FormatSpec<Args...>& format, const Args&... args) { \
    return absl::Name##Error(absl::StrFormat(format, args...));               \
  }
ATL_DEFINE_ERROR(InvalidArgument)
ATL_DEFINE_ERROR(NotFound)
ATL_DEFINE_ERROR(AlreadyExists)
ATL_DEFINE_ERROR(FailedPrecondition)
ATL_DEFINE_ERROR(ResourceExhausted)
ATL_DEFINE_ERROR(Unavailable)
ATL_DEFINE_ERROR(DeadlineExceeded)
ATL_DEFINE_ERROR(DataLoss)
ATL_DEFINE_ERROR(Internal)
ATL_DEFINE_ERROR(Unimplemented)
ATL_DEFINE_ERROR(Cancelled)
ATL_DEFINE_ERROR(OutOfRange)
#undef ATL_DEFINE_ERROR

// The same code with `context` and ": " before the message; OK stays OK.
Status Annotate(const Status& status, const std::string& context);

// InvalidArgument and friends from errno: "open DIR/x: No such file or directory".
Status ErrnoStatus(int error, const std::string& what);

}  // namespace atl

#define ATL_CONCAT_INNER(a, b) a##b
#define ATL_CONCAT(a, b) ATL_CONCAT_INNER(a, b)

#define ATL_RETURN_IF_ERROR(expr)              \
  do {                                         \
    ::absl::Status atl_status_ = (expr);       \
    if (!atl_status_.ok()) return atl_status_; \
  } while (false)

// ATL_ASSIGN_OR_RETURN(auto x, F());
#define ATL_ASSIGN_OR_RETURN(lhs, expr) \
  ATL_ASSIGN_OR_RETURN_IMPL(ATL_CONCAT(atl_or_, __LINE__), lhs, expr)
#define ATL_ASSIGN_OR_RETURN_IMPL(tmp, lhs, expr) \
  auto tmp = (expr);                              \
  if (!tmp.ok()) return std::move(tmp).status();  \
  lhs = *std::move(tmp)
