// A model's experts as placement counts them.
#pragma once

#include "cluster/placement.h"
#include "model/config.h"

namespace atl::dispatch {

// Layers of the main model; bytes are left zero.
cluster::ModelExperts ModelExpertsOf(const model::ModelConfig& config);

}  // namespace atl::dispatch
