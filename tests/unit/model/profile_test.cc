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
  EXPECT_EQ(p->activations, Activations::kF32);
  EXPECT_EQ(p->wire, DType::kF32);
  EXPECT_EQ(p->cache, DType::kF32);
  EXPECT_EQ(NumericsId(*p), "reference/1/cpu");
}

TEST(Profile, Bf16RoundsEverywhere) {
  const StatusOr<NumericProfile> p = FindProfile("bf16");
  ASSERT_TRUE(p.ok());
  EXPECT_EQ(p->name, "bf16");
  EXPECT_EQ(p->weights, MatrixFormat::kBf16);
  EXPECT_EQ(p->activations, Activations::kBf16);
  EXPECT_EQ(p->wire, DType::kBf16);
  EXPECT_EQ(p->cache, DType::kBf16);
}

TEST(Profile, Fp8IsOfWeightsAlone) {
  const StatusOr<NumericProfile> p = FindProfile("fp8w"), bf16 = FindProfile("bf16");
  ASSERT_TRUE(p.ok());
  EXPECT_EQ(p->weights, MatrixFormat::kFp8);
  EXPECT_EQ(p->kv_b, bf16->kv_b);
  EXPECT_EQ(p->head, bf16->head);
  EXPECT_EQ(p->activations, bf16->activations);
  EXPECT_EQ(p->wire, bf16->wire);
  EXPECT_EQ(p->cache, bf16->cache);
  EXPECT_EQ(NumericsId(*p), "fp8w/1/cpu");
}

TEST(Profile, QuantisedOnesDifferInTheirWeightsAlone) {
  for (const char* name : {"q8", "q4"}) {
    const StatusOr<NumericProfile> p = FindProfile(name);
    ASSERT_TRUE(p.ok());
    EXPECT_EQ(p->weights, p->name == "q8" ? MatrixFormat::kQ8 : MatrixFormat::kQ4);
    EXPECT_EQ(p->kv_b, MatrixFormat::kQ8);
    EXPECT_EQ(p->head, p->weights);
    EXPECT_EQ(p->activations, Activations::kInt8);
    EXPECT_EQ(p->wire, DType::kBf16);
    EXPECT_EQ(p->cache, DType::kBf16);
  }
  EXPECT_STREQ(kDefaultProfile, "q8") << "docs/numerics.md has the measurements that chose it";
  EXPECT_EQ(NumericsId(*FindProfile("q8")), "q8/1/cpu");
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
