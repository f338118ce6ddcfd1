#include "attention_service/scheduler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <vector>

namespace atl::attention {
namespace {

class SilentObserver : public RunObserver {
  void OnResponse(atollpb::v1::RunResponse) override {}
  void OnDone(const Status&) override {}
};

class SchedulerTest : public ::testing::Test {
 protected:
  void Make(EngineOptions options, int64_t blocks) {
    options.prefix_cache = prefix_cache_;
    cache_ = std::make_unique<LatentCache>(
        kernels::MlaShape{
            .num_heads = 2, .kv_lora_rank = 8, .qk_rope_head_dim = 4, .softmax_scale = 1},
        1, blocks);
    scheduler_ = std::make_unique<Scheduler>(options, cache_.get());
  }
  void Add(uint64_t id, int prompt_tokens, uint32_t first = 0) {
    atollpb::v1::RunStart start;
    for (int i = 0; i < prompt_tokens; ++i) start.add_prompt_ids(first + i);
    start.set_prompt_logprobs(-1);
    start.mutable_sampling()->set_repetition_penalty(1);
    auto sequence =
        std::make_unique<Sequence>(id, start, std::make_shared<RunSink>(&observer_), absl::Now());
    raw_[id] = sequence.get();
    scheduler_->Add(std::move(sequence));
  }
  bool Plan() {
    return scheduler_->Plan(&step_, [this](std::unique_ptr<Sequence> s, Status status) {
      refused_.push_back(s->sequence_id);
      EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
    });
  }
  // Rows of each sequence in the planned step.
  std::map<uint64_t, int64_t> Rows() const {
    std::map<uint64_t, int64_t> rows;
    for (const auto& part : step_.parts) rows[part.sequence->sequence_id] = part.num_rows;
    return rows;
  }
  // The step ran; sequences that were computed to their end get one more token.
  void Finish() {
    scheduler_->Computed(step_);
    for (const auto& part : step_.parts) {
      if (part.sequence->remaining() == 0) part.sequence->ids.push_back(7);
    }
  }

  SilentObserver observer_;
  bool prefix_cache_ = false;
  std::unique_ptr<LatentCache> cache_;
  std::unique_ptr<Scheduler> scheduler_;
  std::map<uint64_t, Sequence*> raw_;
  std::vector<uint64_t> refused_;
  Step step_;
};

using RowsOf = std::map<uint64_t, int64_t>;

TEST_F(SchedulerTest, NothingToDo) {
  Make({}, 4);
  EXPECT_FALSE(Plan());
}

TEST_F(SchedulerTest, PromptsAreCutIntoChunksAndDecodesComeFirst) {
  Make({.max_step_tokens = 40, .prefill_chunk = 32}, 16);
  Add(1, 50);
  ASSERT_TRUE(Plan());
  EXPECT_EQ(Rows(), (RowsOf{{1, 32}}));
  EXPECT_EQ(step_.rows[31].position, 31);
  Finish();
  Add(2, 100);
  ASSERT_TRUE(Plan());
  EXPECT_EQ(Rows(), (RowsOf{{1, 18}, {2, 22}}));
  Finish();
  ASSERT_TRUE(Plan());  // 1 decodes
  EXPECT_EQ(Rows(), (RowsOf{{1, 1}, {2, 32}}));
  EXPECT_EQ(step_.parts[0].sequence->sequence_id, 1);
  EXPECT_EQ(step_.rows[0].position, 50);
  EXPECT_EQ(step_.rows[0].token, 7);
}

TEST_F(SchedulerTest, NoMoreSequencesThanAllowedRun) {
  Make({.max_running = 2}, 16);
  for (uint64_t id = 1; id <= 3; ++id) Add(id, 5);
  ASSERT_TRUE(Plan());
  EXPECT_EQ(Rows().size(), 2);
  Finish();
  EXPECT_NE(scheduler_->Remove(1), nullptr);
  ASSERT_TRUE(Plan());
  EXPECT_TRUE(Rows().contains(3));
}

TEST_F(SchedulerTest, TheNewestIsPreemptedWhenBlocksRunOutAndStartsAgain) {
  Make({}, 2);
  Add(1, 60);
  Add(2, 60, 500);
  ASSERT_TRUE(Plan());
  EXPECT_EQ(Rows().size(), 2);
  Finish();
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(Plan());
    EXPECT_EQ(Rows().size(), 2);
    Finish();
  }
  // Position 64: sequence 1 needs a second block, and only sequence 2's can be had.
  ASSERT_TRUE(Plan());
  Finish();
  ASSERT_TRUE(Plan());
  EXPECT_EQ(Rows(), (RowsOf{{1, 1}}));
  EXPECT_EQ(scheduler_->preemptions(), 1);
  EXPECT_EQ(scheduler_->num_waiting(), 1);
  EXPECT_EQ(raw_[2]->computed, 0);
  EXPECT_GT(raw_[2]->ids.size(), 60);
  Finish();
  EXPECT_NE(scheduler_->Remove(1), nullptr);
  ASSERT_TRUE(Plan());
  EXPECT_EQ(Rows().at(2), static_cast<int64_t>(raw_[2]->ids.size()));  // all of it again, at once
}

TEST_F(SchedulerTest, ASequenceThatCanNeverFitIsRefused) {
  Make({}, 2);
  Add(1, 200);
  Add(2, 10);
  ASSERT_TRUE(Plan());
  EXPECT_EQ(refused_, std::vector<uint64_t>{1});
  EXPECT_EQ(Rows(), (RowsOf{{2, 10}}));
}

TEST_F(SchedulerTest, BlocksAllComeBack) {
  prefix_cache_ = true;
  Make({}, 8);
  for (uint64_t id = 1; id <= 3; ++id) Add(id, 100, static_cast<uint32_t>(id * 1000));
  ASSERT_TRUE(Plan());
  Finish();
  EXPECT_GT(cache_->stats().used, 0);
  EXPECT_NE(scheduler_->Remove(2), nullptr);
  EXPECT_EQ(scheduler_->RemoveAll().size(), 2);
  EXPECT_EQ(cache_->stats().used, 0);
  EXPECT_EQ(cache_->stats().cached, 3);
}

TEST_F(SchedulerTest, ALaterPromptFindsTheEarlierOnesBlocks) {
  prefix_cache_ = true;
  Make({}, 8);
  Add(1, 150);
  ASSERT_TRUE(Plan());
  Finish();
  EXPECT_NE(scheduler_->Remove(1), nullptr);
  Add(2, 150);
  ASSERT_TRUE(Plan());
  EXPECT_EQ(Rows(), (RowsOf{{2, 150 - 128}}));
  EXPECT_EQ(raw_[2]->cached_prompt_tokens, 128);
}

// Guesses ride along with a decode; what was not sampled is computed again.
TEST_F(SchedulerTest, DraftsAreRowsOfTheNextStepAlone) {
  Make({}, 16);
  Add(1, 10);
  ASSERT_TRUE(Plan());
  Finish();
  raw_[1]->drafts = {8, 9};
  ASSERT_TRUE(Plan());
  EXPECT_EQ(Rows(), (RowsOf{{1, 3}}));
  EXPECT_EQ(step_.parts[0].num_drafts, 2);
  EXPECT_EQ(step_.rows[1].token, 8);
  EXPECT_EQ(step_.rows[1].position, 11);
  EXPECT_EQ(step_.rows[2].position, 12);
  raw_[1]->ids.insert(raw_[1]->ids.end(), {8, 5});  // the first was right
  scheduler_->Computed(step_);
  EXPECT_EQ(raw_[1]->computed, 12);
  ASSERT_TRUE(Plan());
  EXPECT_EQ(Rows(), (RowsOf{{1, 1}}));
  EXPECT_EQ(step_.rows[0].token, 5);
  EXPECT_EQ(step_.rows[0].position, 12);
}

TEST_F(SchedulerTest, DraftsTakeNoDecodesRowAndNoSequencesBlocks) {
  Make({.max_step_tokens = 3}, 2);
  Add(1, 1);
  Add(2, 1);
  ASSERT_TRUE(Plan());
  Finish();
  raw_[1]->drafts = {8, 9};
  raw_[2]->drafts = {8, 9};
  ASSERT_TRUE(Plan());
  EXPECT_EQ(Rows(), (RowsOf{{1, 2}, {2, 1}}));
  Make({}, 2);
  Add(3, 62);
  Add(4, 62);
  ASSERT_TRUE(Plan());
  Finish();
  raw_[3]->drafts = {8, 9};  // positions 63 and 64: for the latter there is no block
  ASSERT_TRUE(Plan());
  EXPECT_EQ(Rows(), (RowsOf{{3, 2}, {4, 1}}));
  EXPECT_EQ(scheduler_->preemptions(), 0);
}

// The last block is the younger sequence's sure row's, not the older one's guess's.
TEST_F(SchedulerTest, NoDraftTakesTheBlockThatADecodeNeeds) {
  Make({}, 3);
  Add(1, 63);
  Add(2, 64, 500);
  ASSERT_TRUE(Plan());
  Finish();
  raw_[1]->drafts = {8};  // position 64; so is 2's next row
  ASSERT_TRUE(Plan());
  EXPECT_EQ(Rows(), (RowsOf{{1, 1}, {2, 1}}));
  EXPECT_EQ(step_.rows[1].position, 64);
  EXPECT_EQ(scheduler_->preemptions(), 0);
}

TEST_F(SchedulerTest, BlocksOfDraftsAreForOneStep) {
  Make({}, 3);
  Add(1, 62);
  Add(2, 63, 500);
  ASSERT_TRUE(Plan());
  Finish();
  raw_[1]->drafts = {8, 9};
  ASSERT_TRUE(Plan());
  EXPECT_EQ(Rows(), (RowsOf{{1, 3}, {2, 1}}));
  EXPECT_EQ(cache_->stats().used, 3);
  raw_[1]->ids.push_back(5);  // both were wrong
  raw_[2]->ids.push_back(5);
  scheduler_->Computed(step_);
  ASSERT_TRUE(Plan());
  EXPECT_EQ(Rows(), (RowsOf{{1, 1}, {2, 1}}));
  EXPECT_EQ(step_.rows[1].position, 64);
  EXPECT_EQ(scheduler_->preemptions(), 0);
  EXPECT_EQ(raw_[1]->blocks.size(), 1);
}

// As many as fit when there are no prompts, else half of what decodes leave, and what prompts do
// not take of the other half.
TEST_F(SchedulerTest, DraftsLeavePromptsTheirShareOfRows) {
  Make({.max_step_tokens = 16}, 16);
  for (uint64_t id = 1; id <= 4; ++id) Add(id, 2, static_cast<uint32_t>(id * 100));
  ASSERT_TRUE(Plan());
  Finish();
  for (uint64_t id = 1; id <= 4; ++id) raw_[id]->drafts = {7, 7, 7};
  ASSERT_TRUE(Plan());
  EXPECT_EQ(Rows(), (RowsOf{{1, 4}, {2, 4}, {3, 4}, {4, 4}}));
  Finish();
  for (uint64_t id = 1; id <= 4; ++id) raw_[id]->drafts = {7, 7, 7};
  Add(5, 100, 1000);
  Add(6, 100, 2000);
  ASSERT_TRUE(Plan());
  EXPECT_EQ(Rows(), (RowsOf{{1, 4}, {2, 4}, {3, 1}, {4, 1}, {5, 6}}));
  Finish();
  EXPECT_NE(scheduler_->Remove(5), nullptr);
  EXPECT_NE(scheduler_->Remove(6), nullptr);
  for (uint64_t id = 1; id <= 4; ++id) raw_[id]->drafts = {7, 7, 7};
  Add(7, 2, 3000);
  ASSERT_TRUE(Plan());
  EXPECT_EQ(Rows(), (RowsOf{{1, 4}, {2, 4}, {3, 4}, {4, 2}, {7, 2}}));
}

// A block that ends in a guess that was wrong is not kept for later prompts.
TEST_F(SchedulerTest, BlocksWithWrongDraftsAreNotKept) {
  prefix_cache_ = true;
  Make({}, 8);
  Add(1, 62);
  ASSERT_TRUE(Plan());
  Finish();
  raw_[1]->drafts = {8};
  ASSERT_TRUE(Plan());
  EXPECT_EQ(Rows(), (RowsOf{{1, 2}}));  // positions 62 and 63
  raw_[1]->ids.push_back(5);
  scheduler_->Computed(step_);
  EXPECT_EQ(raw_[1]->kept_blocks, 0);
  EXPECT_EQ(raw_[1]->computed, 63);
  ASSERT_TRUE(Plan());
  Finish();
  EXPECT_EQ(raw_[1]->kept_blocks, 1);
}

}  // namespace
}  // namespace atl::attention
