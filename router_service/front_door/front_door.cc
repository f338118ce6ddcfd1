#include "router_service/front_door/front_door.h"

#include <random>

#include "router_service/front_door/inference_service.h"
#include "router_service/front_door/model_service.h"
#include "router_service/front_door/prompt.h"
#include "router_service/front_door/scheduler.h"
#include "router_service/front_door/sessions.h"

namespace atl::front_door {
namespace {

uint64_t Random64() {
  std::random_device device;  // opened for each: any thread may call
  return (uint64_t{device()} << 32) | device();
}

ResolveContext MakeResolveContext(const ServedModel& model, const ModelLimits& limits) {
  return {.revision = model.checkpoint->revision(),
          .numerics_id = model::NumericsId(model.profile),
          .expands_prompts = model.profile.expands_prompts(),
          .generation_config = model.checkpoint->generation_config(),
          .eos_token_ids = model.checkpoint->config().eos_token_ids,
          .context_length = limits.context_length,
          .random = Random64};
}

}  // namespace

struct FrontDoor::State {
  State(const ServedModel* model, const AttentionDirectory* directory,
        const FrontDoorOptions& options)
      : limits(LimitsOf(*model, options.context_length)),
        sessions(model->tokenizer.get(), directory, options, &scheduler),
        context{.model = model,
                .limits = limits,
                .resolve = MakeResolveContext(*model, limits),
                .sessions = &sessions,
                .scheduler = &scheduler},
        inference(&context),
        models(model, limits) {}

  const ModelLimits limits;
  Sessions sessions;
  const InferenceContext context;
  InferenceService inference;
  ModelService models;
  ThreadScheduler scheduler;  // stops first: what it still runs uses the rest
};

FrontDoor::FrontDoor(const ServedModel* model, const AttentionDirectory* directory,
                     FrontDoorOptions options)
    : state_(std::make_unique<State>(model, directory, options)) {}

FrontDoor::~FrontDoor() { EndAll(); }

std::vector<grpc::Service*> FrontDoor::services() { return {&state_->inference, &state_->models}; }

void FrontDoor::OnDirectoryChanged() { state_->sessions.OnDirectoryChanged(); }

void FrontDoor::StopAdmitting() { state_->sessions.StopAdmitting(); }

int FrontDoor::num_running() const { return state_->sessions.num_running(); }

int FrontDoor::num_queued() const { return state_->sessions.num_queued(); }

bool FrontDoor::WaitUntilIdle(absl::Duration timeout) const {
  return state_->sessions.WaitUntilIdle(timeout);
}

FrontDoorStats FrontDoor::stats() const { return state_->sessions.stats(); }

const RequestHistograms& FrontDoor::histograms() const { return state_->sessions.histograms(); }

void FrontDoor::EndAll() {
  state_->sessions.StopAdmitting();
  state_->sessions.EndAll();
}

}  // namespace atl::front_door
