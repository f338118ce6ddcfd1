// A model's experts as placement counts them.
#pragma once

#include "cluster/placement.h"
#include "model/config.h"

namespace atl::dispatch {

// Layers of the main model, and with_mtp the first MTP layer if there is one; bytes are left zero.
cluster::ModelExperts ModelExpertsOf(const model::ModelConfig& config, bool with_mtp);

}  // namespace atl::dispatch
