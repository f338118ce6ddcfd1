#include "model/profile.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <tuple>

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

TEST(Profile, SuffixesMakeProfilesOfTheirOwn) {
  for (const std::string& base : ProfileNames()) {
    const NumericProfile plain = *FindProfile(base);
    EXPECT_FALSE(plain.expands_prompts());
    for (const auto& [suffix, fp8, expanded] :
         {std::tuple("+fp8cache", true, false), std::tuple("+expanded", false, true),
          std::tuple("+fp8cache+expanded", true, true)}) {
      const StatusOr<NumericProfile> p = FindProfile(base + suffix);
      ASSERT_TRUE(p.ok()) << p.status();
      EXPECT_EQ(p->name, base + suffix);
      EXPECT_EQ(NumericsId(*p), base + suffix + "/1/cpu");
      EXPECT_EQ(p->cache, fp8 ? DType::kF8E4M3 : plain.cache);
      EXPECT_EQ(p->expands_prompts(), expanded);
      EXPECT_EQ(p->weights, plain.weights);
      EXPECT_EQ(p->kv_b, plain.kv_b);
      EXPECT_EQ(p->activations, plain.activations);
      EXPECT_EQ(p->wire, plain.wire);
    }
  }
}

TEST(Profile, TheOrderOfSuffixesMakesNoOther) {
  EXPECT_EQ(NumericsId(*FindProfile("q8+expanded+fp8cache")), "q8+fp8cache+expanded/1/cpu");
}

TEST(Profile, LatentBytes) {
  EXPECT_EQ(LatentBytes(*FindProfile("reference"), 512, 64), 576 * 4);
  EXPECT_EQ(LatentBytes(*FindProfile("q8"), 512, 64), 576 * 2);
  const NumericProfile fp8 = *FindProfile("q8+fp8cache");
  EXPECT_EQ(LatentBytes(fp8, 512, 64), 656) << "DeepSeek's layout";
  EXPECT_EQ(LatentBytes(fp8, 64, 16), 64 + 4 + 32);
  EXPECT_EQ(LatentBytes(fp8, 130, 6), 132 + 8 + 12);
}

TEST(Profile, UnknownNamesWhatThereIs) {
  for (const std::string unknown : {"q2", "", "+fp8cache", "q8+", "q8+fp16cache",
                                    "q8+fp8cache+fp8cache", "q8fp8cache", "q8++fp8cache"}) {
    const StatusOr<NumericProfile> p = FindProfile(unknown);
    EXPECT_EQ(p.status().code(), absl::StatusCode::kInvalidArgument) << unknown;
    const std::string message(p.status().message());
    EXPECT_THAT(message, HasSubstr("'" + unknown + "'"));
    for (const std::string& name : ProfileNames()) EXPECT_THAT(message, HasSubstr(name));
    for (const std::string& name : ProfileSuffixes()) EXPECT_THAT(message, HasSubstr(name));
  }
}

}  // namespace
}  // namespace atl::model
