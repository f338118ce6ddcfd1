#include "router_service/front_door/validate.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>

namespace atl::front_door {
namespace {

namespace pb = atollpb::v1;

ModelLimits Limits() {
  return {.name = "demo",
          .vocab_size = 2048,
          .context_length = 100,
          .max_prompt_bytes = 5000,
          .has_tokenizer = true,
          .has_chat_template = true};
}

pb::GenerateRequest Good() {
  pb::GenerateRequest request;
  request.set_text("hello");
  return request;
}

struct BadField {
  const char* name;
  const char* field;
  const char* found;  // part of the description
  std::function<void(pb::GenerateRequest*)> spoil;
};

const float kNan = std::nanf("");
const float kInf = std::numeric_limits<float>::infinity();

class BadFieldTest : public ::testing::TestWithParam<BadField> {};

TEST_P(BadFieldTest, IsNamedWithWhatWasExpectedAndFound) {
  pb::GenerateRequest request = Good();
  GetParam().spoil(&request);
  const RequestError error = ValidateRequest(request, Limits());
  ASSERT_EQ(error.status.code(), absl::StatusCode::kInvalidArgument);
  ASSERT_EQ(error.violations.size(), 1);
  EXPECT_EQ(error.violations[0].field, GetParam().field);
  EXPECT_NE(error.violations[0].description.find("expected "), std::string::npos);
  EXPECT_NE(error.violations[0].description.find(absl::StrFormat("found %s", GetParam().found)),
            std::string::npos)
      << error.violations[0].description;
}

using R = pb::GenerateRequest;

INSTANTIATE_TEST_SUITE_P(
    Prompt, BadFieldTest,
    ::testing::Values(
        BadField{"None", "prompt", "an empty prompt", [](R* r) { r->clear_prompt(); }},
        BadField{"EmptyText", "text", "an empty prompt", [](R* r) { r->set_text(""); }},
        BadField{"NoIds", "token_ids.ids", "an empty prompt", [](R* r) { r->mutable_token_ids(); }},
        BadField{"NoMessages", "messages.messages", "an empty prompt",
                 [](R* r) { r->mutable_messages(); }},
        BadField{"LongText", "text", "5001", [](R* r) { r->set_text(std::string(5001, 'a')); }},
        BadField{"TextNotUtf8", "text", "'a\\xff'", [](R* r) { r->set_text("a\xff"); }},
        BadField{"IdAtVocab", "token_ids.ids[1]", "2048",
                 [](R* r) {
                   r->mutable_token_ids()->add_ids(2047);
                   r->mutable_token_ids()->add_ids(2048);
                   r->mutable_token_ids()->add_ids(5000);
                 }},
        BadField{"Role", "messages.messages[1].role", "'robot'",
                 [](R* r) {
                   r->mutable_messages()->add_messages()->set_role("user");
                   r->mutable_messages()->add_messages()->set_role("robot");
                 }},
        BadField{"NoRole", "messages.messages[0].role", "''",
                 [](R* r) { r->mutable_messages()->add_messages()->set_content("hi"); }},
        BadField{"LongContent", "messages.messages[0].content", "5001",
                 [](R* r) {
                   auto* message = r->mutable_messages()->add_messages();
                   message->set_role("user");
                   message->set_content(std::string(5001, 'a'));
                 }},
        BadField{"LongTogether", "messages.messages", "5001",
                 [](R* r) {
                   for (const int size : {2500, 2501}) {
                     auto* message = r->mutable_messages()->add_messages();
                     message->set_role("user");
                     message->set_content(std::string(size, 'a'));
                   }
                 }},
        BadField{"TooManyMessages", "messages.messages", "4097",
                 [](R* r) {
                   for (int i = 0; i < 4097; ++i)
                     r->mutable_messages()->add_messages()->set_role("user");
                 }},
        BadField{"ResumedId", "resume_from.ids[0]", "2048",
                 [](R* r) { r->mutable_resume_from()->add_ids(2048); }}),
    [](const auto& info) { return info.param.name; });

#define NUMBER(name, field, value, found)                                                     \
  BadField {                                                                                  \
    #name, "sampling." #field, found, [](R* r) { r->mutable_sampling()->set_##field(value); } \
  }

INSTANTIATE_TEST_SUITE_P(
    Sampling, BadFieldTest,
    ::testing::Values(
        NUMBER(TemperatureNan, temperature, kNan, "nan"),
        NUMBER(TemperatureInf, temperature, kInf, "inf"),
        NUMBER(TemperatureNegative, temperature, -0.1f, "-0.1"), NUMBER(TopPZero, top_p, 0.0f, "0"),
        NUMBER(TopPAboveOne, top_p, 1.5f, "1.5"), NUMBER(TopPNan, top_p, kNan, "nan"),
        NUMBER(TopPNegative, top_p, -1.0f, "-1"), NUMBER(MinPNegative, min_p, -0.5f, "-0.5"),
        NUMBER(MinPAboveOne, min_p, 1.5f, "1.5"), NUMBER(MinPNan, min_p, kNan, "nan"),
        NUMBER(RepetitionZero, repetition_penalty, 0.0f, "0"),
        NUMBER(RepetitionNegative, repetition_penalty, -1.0f, "-1"),
        NUMBER(RepetitionNan, repetition_penalty, kNan, "nan"),
        NUMBER(RepetitionInf, repetition_penalty, kInf, "inf"),
        NUMBER(PresenceLow, presence_penalty, -2.5f, "-2.5"),
        NUMBER(PresenceHigh, presence_penalty, 2.5f, "2.5"),
        NUMBER(PresenceNan, presence_penalty, kNan, "nan"),
        NUMBER(FrequencyLow, frequency_penalty, -2.5f, "-2.5"),
        NUMBER(FrequencyHigh, frequency_penalty, 2.5f, "2.5"),
        NUMBER(FrequencyNan, frequency_penalty, kNan, "nan"),
        BadField{"BiasId", "sampling.logit_bias[2048]", "2048",
                 [](R* r) {
                   (*r->mutable_sampling()->mutable_logit_bias())[9000] = 1;
                   (*r->mutable_sampling()->mutable_logit_bias())[2048] = 1;
                 }},
        BadField{"BiasNan", "sampling.logit_bias[7]", "nan",
                 [](R* r) { (*r->mutable_sampling()->mutable_logit_bias())[7] = kNan; }},
        BadField{"BiasInf", "sampling.logit_bias[7]", "-inf",
                 [](R* r) { (*r->mutable_sampling()->mutable_logit_bias())[7] = -kInf; }}),
    [](const auto& info) { return info.param.name; });

INSTANTIATE_TEST_SUITE_P(
    Rest, BadFieldTest,
    ::testing::Values(
        BadField{"EmptyStop", "stop[1]", "an empty string",
                 [](R* r) {
                   r->add_stop(std::string(1, 'x'));
                   r->add_stop(std::string());
                 }},
        BadField{"LongStop", "stop[0]", "1025", [](R* r) { r->add_stop(std::string(1025, 'a')); }},
        BadField{"StopNotUtf8", "stop[0]", "'\\xc3'", [](R* r) { r->add_stop("\xc3"); }},
        BadField{"ManyStops", "stop", "17",
                 [](R* r) {
                   for (int i = 0; i < 17; ++i) r->add_stop(std::string(1, 'x'));
                 }},
        BadField{"StopId", "stop_token_ids[0]", "2048", [](R* r) { r->add_stop_token_ids(2048); }},
        BadField{"Logprobs", "logprobs", "21", [](R* r) { r->set_logprobs(21); }},
        BadField{"PromptLogprobs", "prompt_logprobs", "21",
                 [](R* r) { r->set_prompt_logprobs(21); }},
        BadField{"LongRequestId", "request_id", "129",
                 [](R* r) { r->set_request_id(std::string(129, 'a')); }},
        BadField{"RequestIdControl", "request_id", "'a\\n'",
                 [](R* r) { r->set_request_id("a\n"); }},
        BadField{"RequestIdNotAscii", "request_id", "'\\xc3\\xa9'",
                 [](R* r) { r->set_request_id("é"); }}),
    [](const auto& info) { return info.param.name; });

TEST(ValidateTest, EveryBadFieldIsNamed) {
  pb::GenerateRequest request;
  request.mutable_sampling()->set_temperature(-1);
  request.mutable_sampling()->set_top_p(2);
  request.add_stop("");
  request.set_logprobs(99);
  const RequestError error = ValidateRequest(request, Limits());
  std::vector<std::string> fields;
  for (const auto& violation : error.violations) fields.push_back(violation.field);
  EXPECT_EQ(fields, (std::vector<std::string>{"prompt", "sampling.temperature", "sampling.top_p",
                                              "stop[0]", "logprobs"}));
}

TEST(ValidateTest, TheEdgesOfEveryRangeAreGood) {
  for (const bool high : {false, true}) {
    pb::GenerateRequest request = Good();
    pb::SamplingParams* s = request.mutable_sampling();
    const float max = std::numeric_limits<float>::max();
    s->set_temperature(high ? max : 0);
    s->set_top_p(high ? 1 : std::numeric_limits<float>::denorm_min());
    s->set_top_k(high ? std::numeric_limits<uint32_t>::max() : 0);
    s->set_min_p(high ? 1 : 0);
    s->set_repetition_penalty(high ? max : std::numeric_limits<float>::denorm_min());
    s->set_presence_penalty(high ? 2 : -2);
    s->set_frequency_penalty(high ? 2 : -2);
    (*s->mutable_logit_bias())[high ? 2047 : 0] = high ? max : -max;
    request.set_logprobs(high ? 20 : 0);
    request.set_prompt_logprobs(high ? 20 : 0);
    for (int i = 0; i < 16; ++i) request.add_stop(std::string(1024, 'a'));
    request.add_stop_token_ids(2047);
    request.set_request_id(std::string(128, '~'));
    request.set_max_tokens(high ? std::numeric_limits<uint32_t>::max() : 0);
    request.mutable_resume_from()->add_ids(2047);
    request.set_bias_version(0);
    request.set_model("demo");
    EXPECT_TRUE(ValidateRequest(request, Limits()).ok())
        << ValidateRequest(request, Limits()).status;
  }
}

TEST(ValidateTest, EveryRoleIsGood) {
  pb::GenerateRequest request;
  for (const char* role : {"system", "user", "assistant", "tool"}) {
    request.mutable_messages()->add_messages()->set_role(role);
  }
  EXPECT_TRUE(ValidateRequest(request, Limits()).ok());
}

TEST(ValidateTest, AnotherModelIsNotFound) {
  pb::GenerateRequest request = Good();
  request.set_model("other");
  const RequestError error = ValidateRequest(request, Limits());
  EXPECT_EQ(error.status.code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(error.status.message(), "model: expected 'demo', found 'other'");
}

TEST(ValidateTest, ALongNameIsCutInTheMessage) {
  pb::GenerateRequest request = Good();
  request.set_model(std::string(100000, 'x'));
  EXPECT_LT(ValidateRequest(request, Limits()).status.message().size(), 200);
}

TEST(ValidateTest, AnUnknownBiasVersionIsAFailedPrecondition) {
  pb::GenerateRequest request = Good();
  request.set_bias_version(3);
  EXPECT_EQ(ValidateRequest(request, Limits()).status.code(),
            absl::StatusCode::kFailedPrecondition);
}

TEST(ValidateTest, WithoutATokenizerOnlyIdsAreServed) {
  ModelLimits limits = Limits();
  limits.has_tokenizer = limits.has_chat_template = false;
  pb::GenerateRequest ids;
  ids.mutable_token_ids()->add_ids(1);
  EXPECT_TRUE(ValidateRequest(ids, limits).ok());
  pb::GenerateRequest messages;
  messages.mutable_messages()->add_messages()->set_role("user");
  pb::GenerateRequest stop = ids;
  stop.add_stop("x");
  for (const pb::GenerateRequest& request : {Good(), messages, stop}) {
    const RequestError error = ValidateRequest(request, limits);
    EXPECT_EQ(error.status.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_NE(std::string(error.status.message()).find("tokenizer.json"), std::string::npos);
  }
}

TEST(ValidateTest, WithoutAChatTemplateMessagesAreRefused) {
  ModelLimits limits = Limits();
  limits.has_chat_template = false;
  limits.chat_template_error = "line 3: macro";
  pb::GenerateRequest messages;
  messages.mutable_messages()->add_messages()->set_role("user");
  const RequestError error = ValidateRequest(messages, limits);
  EXPECT_EQ(error.status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_NE(std::string(error.status.message()).find("line 3: macro"), std::string::npos);
  EXPECT_TRUE(ValidateRequest(Good(), limits).ok());
}

TEST(ValidateTest, PromptAndResumedTokensMustFitTheContext) {
  EXPECT_EQ(CheckLength("text", 0, 0, Limits()).violations[0].field, "text");
  EXPECT_TRUE(CheckLength("text", 100, 0, Limits()).ok());
  EXPECT_TRUE(CheckLength("text", 90, 10, Limits()).ok());
  const RequestError prompt = CheckLength("token_ids.ids", 101, 0, Limits());
  ASSERT_EQ(prompt.violations.size(), 1);
  EXPECT_EQ(prompt.violations[0].field, "token_ids.ids");
  EXPECT_EQ(prompt.violations[0].description,
            "expected at most the context of 100 tokens, found 101");
  const RequestError resumed = CheckLength("text", 90, 11, Limits());
  ASSERT_EQ(resumed.violations.size(), 1);
  EXPECT_EQ(resumed.violations[0].field, "resume_from.ids");
  EXPECT_EQ(resumed.violations[0].description,
            "expected prompt and resumed tokens within the context of 100, found 90 + 11");
}

}  // namespace
}  // namespace atl::front_door
