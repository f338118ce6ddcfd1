// What announced nodes add up to: lists of LayerExpert, the placement, the planner. Pure functions.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "atollpb/v1/cluster.pb.h"
#include "cluster/placement.h"

namespace atl::cluster {

namespace pb = ::atollpb::v1;

using LayerExpertsProto = google::protobuf::RepeatedPtrField<pb::LayerExperts>;

// Ascending, each once.
std::vector<LayerExpert> FromProto(const LayerExpertsProto& layers);
// REQUIRES: ascending.
LayerExpertsProto ToProto(const std::vector<LayerExpert>& experts);

// Live nodes, each once, ascending by name.
using NodeList = std::vector<std::shared_ptr<const pb::Announcement>>;

// By what expert nodes announce. A draining node counts only where no other holds the expert; what
// the model has not is passed over.
std::shared_ptr<const Placement> MakePlacement(const NodeList& nodes, const ModelExperts& model,
                                               uint64_t version);

// The router that plans: of those not draining the one of lowest (rank, name). Empty: none.
std::string PlannerOf(const NodeList& nodes);

}  // namespace atl::cluster
