#include "model/profile.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace atl::model {
namespace {

using ::testing::HasSubstr;

TEST(Profile, ReferenceIsFloat32Throughout) {
  const StatusOr<NumericProfile> p = FindProfile("reference");
  ASSERT_TRUE(p.ok());
  EXPECT_EQ(p->weights, MatrixFormat::kExact);
  EXPECT_EQ(p->activations, DType::kF32);
  EXPECT_EQ(p->wire, DType::kF32);
  EXPECT_EQ(p->cache, DType::kF32);
  EXPECT_EQ(NumericsId(*p), "reference/1/cpu");
}

TEST(Profile, Bf16RoundsEverywhere) {
  const StatusOr<NumericProfile> p = FindProfile(kDefaultProfile);
  ASSERT_TRUE(p.ok());
  EXPECT_EQ(p->name, "bf16");
  EXPECT_EQ(p->weights, MatrixFormat::kBf16);
  EXPECT_EQ(p->activations, DType::kBf16);
  EXPECT_EQ(p->wire, DType::kBf16);
  EXPECT_EQ(p->cache, DType::kBf16);
}

TEST(Profile, UnknownNamesWhatThereIs) {
  const StatusOr<NumericProfile> p = FindProfile("q2");
  EXPECT_EQ(p.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(p.status().message()), HasSubstr("'q2'"));
  for (const std::string& name : ProfileNames())
    EXPECT_THAT(std::string(p.status().message()), HasSubstr(name));
}

}  // namespace
}  // namespace atl::model
