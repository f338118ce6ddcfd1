#include "expert_service/loader.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/golden.h"

namespace atl::expert {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr ExpertKey kGood{2, 5};
constexpr ExpertKey kBad{2, 999};  // the checkpoint has none

class LoaderTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto opened = model::Checkpoint::Open(atl::testing::GoldenCheckpointDir("v3"));
    ASSERT_TRUE(opened.ok()) << opened.status();
    checkpoint_ = *std::move(opened);
    store_ = std::make_unique<ExpertStore>(checkpoint_.get(),
                                           model::FindProfile("reference").value(), 0);
  }

  // Both experts asked for in one command, which is over when this returns.
  void Start(absl::Duration unreadable_for) {
    loader_ = std::make_unique<Loader>(
        store_.get(), nullptr,
        [this] {
          absl::MutexLock lock(&mu_);
          good_is_there_ = store_->Find(kGood) != nullptr;
        },
        unreadable_for);
    loader_->Obey({.term = 1, .target = {kBad, kGood}});
    absl::MutexLock lock(&mu_);
    ASSERT_TRUE(mu_.AwaitWithTimeout(absl::Condition(&good_is_there_), absl::Minutes(1)));
  }

  absl::Mutex mu_;
  bool good_is_there_ = false;  // guarded by mu_
  std::unique_ptr<model::Checkpoint> checkpoint_;
  std::unique_ptr<ExpertStore> store_;
  std::unique_ptr<Loader> loader_;
};

TEST_F(LoaderTest, WhatCannotBeReadIsToldAndTheRestIsLoaded) {
  Start(absl::InfiniteDuration());
  EXPECT_THAT(loader_->Unreadable(), ElementsAre(kBad));
  EXPECT_EQ(loader_->term(), 1u);
}

TEST_F(LoaderTest, AFailureIsForgottenInTime) {
  Start(absl::ZeroDuration());
  EXPECT_THAT(loader_->Unreadable(), IsEmpty());
}

}  // namespace
}  // namespace atl::expert
