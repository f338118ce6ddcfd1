// Sessions over two fake nodes, a fake clock and the demo tokenizer.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tests/unit/router_service/front_door/fakes.h"

namespace atl::front_door {

using absl::StatusCode;
using Ids = std::vector<uint32_t>;

class SessionFixture : public ::testing::Test {
 protected:
  SessionFixture() {
    auto loaded = text::Tokenizer::Load("models/demo");
    EXPECT_TRUE(loaded.ok()) << loaded.status();
    if (loaded.ok()) tokenizer_ = *std::move(loaded);
    script_ = tokenizer_->Encode("Only that latent and a short rotary key are cached.", false);
    a_ = std::make_shared<FakeBackend>(script_);
    b_ = std::make_shared<FakeBackend>(script_);
    directory_.Add("a", a_);
    directory_.Add("b", b_);
    options_.context_length = 2048;
  }

  // Whatever a test leaves running ends before its sink goes.
  void TearDown() override {
    if (sessions_ != nullptr) sessions_->EndAll();
    scheduler_.RunDue();
    EXPECT_TRUE(scheduler_.idle()) << "a timer is left";
  }

  Sessions& sessions() {
    if (sessions_ == nullptr) {
      sessions_ = std::make_unique<Sessions>(tokenizer_.get(), &directory_, options_, &scheduler_);
    }
    return *sessions_;
  }

  std::shared_ptr<Session> Start(ResolvedRequest request, FakeSink* sink,
                                 absl::Duration timeout = absl::InfiniteDuration()) {
    return sessions().Start(std::move(request), sink, scheduler_.Now(), scheduler_.Now() + timeout);
  }

  // `max_tokens` just the script: an undisturbed run ends with LENGTH.
  ResolvedRequest Request() const { return TestRequest({0, 320, 292}, script_.size()); }

  void DirectoryChanged() {
    sessions().OnDirectoryChanged();
    scheduler_.RunDue();
  }

  // A process that is killed: out of the directory, its runs end.
  void Kill(const std::string& name, FakeBackend* node) {
    directory_.Remove(name);
    for (const auto& run : node->Runs()) run->End(Unavailable("socket closed"));
    DirectoryChanged();
  }

  std::string Text(const Ids& ids) const { return tokenizer_->Decode(ids, true); }

  std::unique_ptr<text::Tokenizer> tokenizer_;
  Ids script_;
  std::shared_ptr<FakeBackend> a_, b_;
  FakeDirectory directory_;
  FrontDoorOptions options_;
  FakeScheduler scheduler_;
  std::unique_ptr<Sessions> sessions_;
};

}  // namespace atl::front_door
