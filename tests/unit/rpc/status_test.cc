#include "rpc/status.h"

#include <gtest/gtest.h>

#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"

namespace atl::rpc {
namespace {

TEST(StatusTest, EveryCodeGoesThereAndBack) {
  for (int code = 1; code <= 16; ++code) {
    const Status status(static_cast<absl::StatusCode>(code), "expected 1, found 2");
    const grpc::Status wire = ToGrpc(status);
    EXPECT_EQ(wire.error_code(), code);
    EXPECT_EQ(wire.error_message(), "expected 1, found 2");
    EXPECT_EQ(FromGrpc(wire), status);
  }
  EXPECT_TRUE(ToGrpc(absl::OkStatus()).ok());
  EXPECT_TRUE(FromGrpc(grpc::Status::OK).ok());
}

TEST(StatusTest, AnErrorWithoutAMessageSaysItsCode) {
  const Status status = FromGrpc(grpc::Status(grpc::StatusCode::UNIMPLEMENTED, ""));
  EXPECT_TRUE(absl::IsUnimplemented(status));
  EXPECT_EQ(status.message(), "UNIMPLEMENTED");
}

TEST(StatusTest, BadRequestNamesEveryField) {
  const grpc::Status status =
      BadRequest({{"sampling.top_p", "expected (0, 1], found 2"}, {"prompt", "is empty"}});
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(status.error_message(), "sampling.top_p: expected (0, 1], found 2; prompt: is empty");
  google::rpc::Status full;
  ASSERT_TRUE(full.ParseFromString(status.error_details()));
  EXPECT_EQ(full.code(), 3);
  ASSERT_EQ(full.details_size(), 1);
  google::rpc::BadRequest detail;
  ASSERT_TRUE(full.details(0).UnpackTo(&detail));
  ASSERT_EQ(detail.field_violations_size(), 2);
  EXPECT_EQ(detail.field_violations(1).field(), "prompt");
  EXPECT_EQ(detail.field_violations(1).description(), "is empty");
}

TEST(StatusTest, RetryInfoCarriesItsDelay) {
  const grpc::Status status =
      WithRetryInfo(absl::ResourceExhaustedError("full"), absl::Milliseconds(1250));
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(status.error_message(), "full");
  EXPECT_EQ(RetryDelay(status), absl::Milliseconds(1250));
  EXPECT_EQ(RetryDelay(ToGrpc(absl::ResourceExhaustedError("full"))), absl::ZeroDuration());
  EXPECT_EQ(RetryDelay(BadRequest({{"a", "b"}})), absl::ZeroDuration());
  EXPECT_EQ(RetryDelay(grpc::Status(grpc::StatusCode::UNAVAILABLE, "x", "no message of that type")),
            absl::ZeroDuration());
}

TEST(StatusTest, OnlyAnotherNodeOrTimeHelpsRetryableOnes) {
  EXPECT_TRUE(IsRetryable(absl::UnavailableError("")));
  EXPECT_TRUE(IsRetryable(absl::ResourceExhaustedError("")));
  EXPECT_FALSE(IsRetryable(absl::FailedPreconditionError("")));
  EXPECT_FALSE(IsRetryable(absl::DeadlineExceededError("")));
  EXPECT_FALSE(IsRetryable(absl::OkStatus()));
}

}  // namespace
}  // namespace atl::rpc
