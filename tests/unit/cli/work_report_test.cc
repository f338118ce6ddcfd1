#include "cli/work_report.h"

#include <gtest/gtest.h>

namespace atl::cli {
namespace {

TEST(WorkReportTest, TellsTheGrowthOfEveryNode) {
  WorkSnapshot before;
  before.front_door = "router-0";
  before.attention["attention-0"] = {100, 0, 50};
  before.attention["attention-1"] = {10, 0, 5};
  before.dispatch_calls["router-0"] = 7;
  before.dispatch_calls["router-1"] = 7;
  before.expert_rows = {{"expert-0", 1000}, {"expert-1", 2000}};
  WorkSnapshot after = before;
  after.attention["attention-1"] = {17, 0, 40};
  after.dispatch_calls["router-1"] = 107;
  after.expert_rows = {{"expert-0", 1300}, {"expert-1", 40}};  // expert-1 was restarted
  EXPECT_EQ(DescribeWork(before, after),
            "router-0 answered; attention: attention-1 7 prompt and 35 answer tokens; dispatched "
            "by router-1 100 "
            "times; rows at the experts: expert-0 300, expert-1 40");
}

TEST(WorkReportTest, OneProcessHasNoNodesToTellOf) {
  EXPECT_EQ(DescribeWork(WorkSnapshot(), WorkSnapshot()), "one process computed everything");
}

TEST(WorkReportTest, SpeedIsOfTokensAfterTheFirst) {
  atollpb::v1::GenerateResponse answer;
  answer.mutable_usage()->set_generated_tokens(36);
  answer.mutable_timings()->set_ttft_s(0.25);
  answer.mutable_timings()->set_tpot_s(0.01);
  EXPECT_EQ(DescribeSpeed(answer), "36 tokens, 100.0 tokens/s, first after 0.250 s");
  answer.mutable_timings()->set_tpot_s(0);
  EXPECT_EQ(DescribeSpeed(answer), "36 tokens, first after 0.250 s");
}

}  // namespace
}  // namespace atl::cli
