// config.json, a zero byte, generation_config.json: what is taken reads the same when written, and
// can be planned for.

#include <string>

#include "base/check.h"
#include "model/config.h"
#include "model/config_json.h"
#include "model/plan.h"
#include "model/profile.h"
#include "tests/fuzz/input.h"

namespace atl::model {
namespace {

constexpr int64_t kMaxPlanned = 4096;  // experts of all layers: a plan visits each of their tensors

void TryPlan(const ModelConfig& config) {
  if ((config.num_hidden_layers + config.num_nextn_predict_layers) * (config.n_routed_experts + 1) >
      kMaxPlanned) {
    return;
  }
  for (const std::string& profile : ProfileNames()) {
    const StatusOr<Plan> plan =
        MakePlan({.name = "fuzz", .config = config, .profile = *FindProfile(profile)});
    if (!plan.ok()) continue;
    ATL_CHECK(plan->params.active <= plan->params.total);
    ATL_CHECK(!PlanToText(*plan).empty());
  }
}

void TryConfig(fuzz::Input input) {
  StatusOr<ModelConfig> config = ParseModelConfig(input.Text(), "config.json");
  if (!config.ok()) return;
  const std::string written = ConfigToJson(*config);
  const StatusOr<ModelConfig> again = ParseModelConfig(written, "again");
  ATL_CHECK(again.ok());
  ATL_CHECK(ConfigToJson(*again) == written);
  CheckServable(*config).IgnoreError();  // either answer is right
  TryPlan(*config);
  (void)ParseGenerationConfig(input.Text(), "generation_config.json", &*config);
}

}  // namespace
}  // namespace atl::model

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  atl::model::TryConfig({data, size});
  return 0;
}
