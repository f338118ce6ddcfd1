#include "router_service/front_door/resolve.h"

#include <gtest/gtest.h>

#include "router_service/front_door/validate.h"

namespace atl::front_door {
namespace {

namespace pb = atollpb::v1;

ResolveContext Context() {
  auto next = std::make_shared<uint64_t>(100);
  return {.revision = "rev",
          .numerics_id = "bf16/1/cpu",
          .generation_config = {},
          .eos_token_ids = {1, 5},
          .context_length = 100,
          .random = [next] { return (*next)++; }};
}

const std::vector<uint32_t> kPrompt = {0, 10, 11};

TEST(ResolveTest, DefaultsOfTheContract) {
  const ResolvedRequest out = Resolve({}, kPrompt, Context());
  const pb::ResolvedSampling& s = out.start.sampling();
  EXPECT_EQ(s.temperature(), 1);
  EXPECT_EQ(s.top_p(), 1);
  EXPECT_EQ(s.top_k(), 0);
  EXPECT_EQ(s.min_p(), 0);
  EXPECT_EQ(s.repetition_penalty(), 1);
  EXPECT_EQ(s.presence_penalty(), 0);
  EXPECT_EQ(s.frequency_penalty(), 0);
  EXPECT_EQ(s.logit_bias_size(), 0);
  EXPECT_EQ(out.start.max_tokens(), 97);
  EXPECT_EQ(out.start.logprobs(), -1);
  EXPECT_EQ(out.start.prompt_logprobs(), -1);
  EXPECT_EQ(out.start.run_number(), 0);
  EXPECT_EQ(out.start.revision(), "rev");
  EXPECT_EQ(out.start.numerics_id(), "bf16/1/cpu");
  EXPECT_EQ(std::vector<uint32_t>(out.start.prompt_ids().begin(), out.start.prompt_ids().end()),
            kPrompt);
  EXPECT_EQ(
      std::vector<uint32_t>(out.start.stop_token_ids().begin(), out.start.stop_token_ids().end()),
      (std::vector<uint32_t>{1, 5}));
}

TEST(ResolveTest, GenerationConfigStandsBetweenRequestAndDefault) {
  ResolveContext context = Context();
  context.generation_config = {.do_sample = true,
                               .temperature = 0.6f,
                               .top_p = 0.95f,
                               .top_k = 40u,
                               .min_p = 0.1f,
                               .repetition_penalty = 1.2f};
  pb::GenerateRequest request;
  request.mutable_sampling()->set_top_p(0.5);
  request.mutable_sampling()->set_top_k(0);
  const pb::ResolvedSampling s = Resolve(request, kPrompt, context).start.sampling();
  EXPECT_FLOAT_EQ(s.temperature(), 0.6f);
  EXPECT_FLOAT_EQ(s.top_p(), 0.5f);
  EXPECT_EQ(s.top_k(), 0);
  EXPECT_FLOAT_EQ(s.min_p(), 0.1f);
  EXPECT_FLOAT_EQ(s.repetition_penalty(), 1.2f);
}

TEST(ResolveTest, DoSampleFalseIsTemperatureZeroUnlessAskedFor) {
  ResolveContext context = Context();
  context.generation_config = {.do_sample = false, .temperature = 0.6f};
  EXPECT_EQ(Resolve({}, kPrompt, context).start.sampling().temperature(), 0);
  pb::GenerateRequest request;
  request.mutable_sampling()->set_temperature(0.3f);
  EXPECT_FLOAT_EQ(Resolve(request, kPrompt, context).start.sampling().temperature(), 0.3f);
}

TEST(ResolveTest, PromptsAreExpandedWhereTheProfileSaysSo) {
  pb::GenerateRequest request;
  request.mutable_resume_from()->add_ids(9);
  EXPECT_EQ(Resolve(request, kPrompt, Context()).num_expanded, 0);
  ResolveContext context = Context();
  context.expands_prompts = true;
  EXPECT_EQ(Resolve(request, kPrompt, context).num_expanded, kPrompt.size());
}

TEST(ResolveTest, ASeedIsKeptOrChosen) {
  const ResolveContext context = Context();
  EXPECT_NE(Resolve({}, kPrompt, context).start.sampling().seed(),
            Resolve({}, kPrompt, context).start.sampling().seed());
  pb::GenerateRequest request;
  request.mutable_sampling()->set_seed(0);
  EXPECT_EQ(Resolve(request, kPrompt, context).start.sampling().seed(), 0);
}

TEST(ResolveTest, RequestIdsAreKeptOrMadeAndRunsAreToldApart) {
  const ResolveContext context = Context();
  pb::GenerateRequest request;
  request.set_request_id("mine");
  const ResolvedRequest first = Resolve(request, kPrompt, context);
  const ResolvedRequest second = Resolve(request, kPrompt, context);
  EXPECT_EQ(first.request_id, "mine");
  EXPECT_NE(first.start.request_id(), second.start.request_id());
  const std::string made = Resolve({}, kPrompt, context).request_id;
  EXPECT_EQ(made.size(), 32);
  EXPECT_NE(made, Resolve({}, kPrompt, context).request_id);
}

TEST(ResolveTest, MaxTokensEndsWithTheContext) {
  pb::GenerateRequest request;
  for (const auto& [asked, given] :
       {std::pair{0u, 0u}, {5u, 5u}, {97u, 97u}, {98u, 97u}, {4000000000u, 97u}}) {
    request.set_max_tokens(asked);
    EXPECT_EQ(Resolve(request, kPrompt, Context()).start.max_tokens(), given);
  }
  EXPECT_EQ(Resolve({}, std::vector<uint32_t>(100, 3), Context()).start.max_tokens(), 0);
}

TEST(ResolveTest, StopIdsAreAscendingAndOnce) {
  pb::GenerateRequest request;
  for (const uint32_t id : {9u, 5u, 2u, 9u}) request.add_stop_token_ids(id);
  const auto ids = [](const ResolvedRequest& r) {
    return std::vector<uint32_t>(r.start.stop_token_ids().begin(), r.start.stop_token_ids().end());
  };
  EXPECT_EQ(ids(Resolve(request, kPrompt, Context())), (std::vector<uint32_t>{1, 2, 5, 9}));
  request.set_ignore_eos(true);
  EXPECT_EQ(ids(Resolve(request, kPrompt, Context())), (std::vector<uint32_t>{2, 5, 9}));
}

TEST(ResolveTest, LogprobsAndResume) {
  pb::GenerateRequest request;
  request.set_logprobs(0);
  request.set_prompt_logprobs(4);
  EXPECT_EQ(Resolve(request, kPrompt, Context()).start.logprobs(), 0);
  EXPECT_EQ(Resolve(request, kPrompt, Context()).start.prompt_logprobs(), 4);
  request.mutable_resume_from()->add_ids(7);
  const pb::RunStart start = Resolve(request, kPrompt, Context()).start;
  EXPECT_EQ(start.generated_ids_size(), 1);
  EXPECT_EQ(start.prompt_logprobs(), -1);  // came with the tokens that the client has
  EXPECT_EQ(start.max_tokens(), 97);       // resumed tokens count
}

}  // namespace
}  // namespace atl::front_door
