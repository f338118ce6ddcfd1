// One ExpertService.Forward: rows and pairs as a message has them, in the form and order that the
// engine wants.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "atollpb/v1/expert.pb.h"
#include "base/status.h"
#include "expert_service/expert_engine.h"
#include "model/config.h"
#include "model/profile.h"
#include "transport/frame.h"

namespace atl::expert {

struct ForwardJob {
  int32_t layer = 0;
  int64_t rows = 0;
  int64_t hidden_size = 0;
  std::vector<float> x;                    // [rows, D], rounded to the wire type
  std::vector<transport::WorkPair> pairs;  // by (expert, row), each once
  std::vector<size_t> place;               // [pairs of the message]: index into `pairs`

  // InvalidArgument: sizes that contradict each other, what the model has not, an answer larger
  // than a message.
  static StatusOr<ForwardJob> Make(const atollpb::v1::ForwardRequest& request,
                                   const model::ModelConfig& config,
                                   const model::NumericProfile& profile);
  // On the engine's thread. The outs in the order of the message's pairs. NotFound: an expert that
  // is not held.
  StatusOr<std::string> Run(ExpertEngine* engine) const;
};

}  // namespace atl::expert
