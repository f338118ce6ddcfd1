#include "router_service/front_door/model_service.h"

#include "rpc/status.h"
#include "tests/unit/router_service/front_door/service_fixture.h"

namespace atl::front_door {
namespace {

namespace pb = atollpb::v1;

class ModelServiceTest : public ServiceFixture {
 protected:
  template <typename Request, typename Response>
  grpc::Status Call(grpc::Status (pb::ModelService::Stub::*method)(grpc::ClientContext*,
                                                                   const Request&, Response*),
                    const Request& request, Response* response) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(30));
    return (models_.get()->*method)(&context, request, response);
  }
  grpc::Status Tokenize(const pb::TokenizeRequest& request, Ids* ids) {
    pb::TokenizeResponse response;
    const grpc::Status status = Call(&pb::ModelService::Stub::Tokenize, request, &response);
    ids->assign(response.token_ids().begin(), response.token_ids().end());
    return status;
  }
  std::string BadField(const grpc::Status& status) {
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
    google::rpc::BadRequest detail;
    if (!GetDetail(status, &detail) || detail.field_violations_size() != 1)
      return "not one violation";
    return detail.field_violations(0).field();
  }
};

TEST_F(ModelServiceTest, SaysWhatIsServed) {
  options_.context_length = 1000;
  StartServer();
  pb::GetModelResponse model;
  ASSERT_TRUE(Call(&pb::ModelService::Stub::GetModel, pb::GetModelRequest(), &model).ok());
  EXPECT_EQ(model.name(), "demo");
  EXPECT_EQ(model.revision(), checkpoint_->revision());
  EXPECT_EQ(model.architecture(), "DeepseekV3ForCausalLM");
  EXPECT_EQ(model.vocab_size(), 2048);
  EXPECT_EQ(model.context_length(), 1000);
  // models/demo/README.md: 6 layers, 80 cached values per token and layer; bf16.
  EXPECT_EQ(model.cache_bytes_per_token(), 6 * 80 * 2);
  EXPECT_EQ(model.numeric_profile(), "bf16");
  EXPECT_GT(model.total_params(), model.active_params());
  EXPECT_GT(model.active_params(), 0);
}

TEST_F(ModelServiceTest, TokenizesTextAndMessages) {
  StartServer();
  pb::TokenizeRequest request;
  Ids ids;
  request.set_text("What is MLA?");
  ASSERT_TRUE(Tokenize(request, &ids).ok());
  EXPECT_EQ(ids, (Ids{320, 292, 590, 33}));  // models/demo/expected.json
  request.set_add_special_tokens(true);
  ASSERT_TRUE(Tokenize(request, &ids).ok());
  EXPECT_EQ(ids, (Ids{0, 320, 292, 590, 33}));
  auto* message = request.mutable_messages()->add_messages();
  message->set_role("user");
  message->set_content("What is MLA?");
  ASSERT_TRUE(Tokenize(request, &ids).ok());
  EXPECT_EQ(ids, (Ids{0, 2046, 320, 292, 590, 33, 2047}));
  request.set_text("");
  request.set_add_special_tokens(false);
  ASSERT_TRUE(Tokenize(request, &ids).ok());
  EXPECT_EQ(ids, Ids{});
}

TEST_F(ModelServiceTest, RefusesBadTokenizeRequests) {
  StartServer();
  Ids ids;
  EXPECT_EQ(BadField(Tokenize({}, &ids)), "input");
  pb::TokenizeRequest request;
  request.mutable_messages();
  EXPECT_EQ(BadField(Tokenize(request, &ids)), "messages.messages");
  request.mutable_messages()->add_messages()->set_role("nobody");
  EXPECT_EQ(BadField(Tokenize(request, &ids)), "messages.messages[0].role");
}

TEST_F(ModelServiceTest, Detokenizes) {
  StartServer();
  pb::DetokenizeRequest request;
  pb::DetokenizeResponse response;
  for (const uint32_t id : {0u, 320u, 292u, 590u, 33u, 1u}) request.add_token_ids(id);
  ASSERT_TRUE(Call(&pb::ModelService::Stub::Detokenize, request, &response).ok());
  EXPECT_EQ(response.text(), "<｜begin▁of▁sentence｜>What is MLA?<｜end▁of▁sentence｜>");
  request.set_skip_special_tokens(true);
  ASSERT_TRUE(Call(&pb::ModelService::Stub::Detokenize, request, &response).ok());
  EXPECT_EQ(response.text(), "What is MLA?");
  request.add_token_ids(2048);
  EXPECT_EQ(BadField(Call(&pb::ModelService::Stub::Detokenize, request, &response)),
            "token_ids[6]");
}

TEST_F(ModelServiceTest, WithoutATokenizerOnlyTheModelIsTold) {
  served_.tokenizer = nullptr;
  served_.chat_template = nullptr;
  StartServer();
  pb::TokenizeRequest tokenize;
  tokenize.set_text("x");
  Ids ids;
  EXPECT_EQ(Tokenize(tokenize, &ids).error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  pb::DetokenizeResponse text;
  EXPECT_EQ(Call(&pb::ModelService::Stub::Detokenize, pb::DetokenizeRequest(), &text).error_code(),
            grpc::StatusCode::FAILED_PRECONDITION);
  pb::GetModelResponse model;
  EXPECT_TRUE(Call(&pb::ModelService::Stub::GetModel, pb::GetModelRequest(), &model).ok());
}

}  // namespace
}  // namespace atl::front_door
