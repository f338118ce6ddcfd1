// What it takes to serve a model: parameters, memory, nodes, network, and where experts stop being
// bound by memory. Pure arithmetic over a configuration; nothing is opened or measured.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/status.h"
#include "model/config.h"
#include "model/layout.h"
#include "model/profile.h"

namespace atl::model {

struct PlanOptions {
  std::string name;  // of the model, for the heading
  ModelConfig config;
  NumericProfile profile;
  int64_t node_memory_bytes = int64_t{64} << 30;  // of each node, whatever its role
  double usable_share = 0.9;  // of it, for weights and cache; the rest is the system's and scratch
  int64_t context_tokens = 32768;       // a sequence's, prompt and answer
  int64_t num_sequences = 16;           // running at once, in the whole cluster
  int64_t num_expert_nodes = 0;         // 0: as few as hold the experts once
  bool speculate = false;               // nodes hold the first MTP layer too
  double bandwidth_bytes_per_s = 30e9;  // of an expert node's memory
  double flops_per_s = 300e9;  // of an expert node, multiplication and addition counted as two
};

struct PartSize {
  ModelPart part = ModelPart::kEmbedding;
  int64_t params = 0;
  int64_t stored_bytes =
      0;  // in a checkpoint: FP8 blocks with their scales where config says so, else bf16
  int64_t memory_bytes = 0;  // under the profile's weight rule
};

// One way to cache attention's keys and values.
struct CacheForm {
  std::string name;
  int64_t values = 0;  // a token, all layers
  int64_t bytes = 0;   // the same in the profile's cache type, with its scales
};

struct AttentionPlan {
  int64_t weight_bytes = 0;        // every attention node holds them all
  int64_t sequence_bytes = 0;      // cache of one sequence of context_tokens
  int64_t sequences_per_node = 0;  // beside the weights; 0: not even one fits
  int64_t num_nodes = 0;           // for num_sequences; 0: no number is enough
};

struct ExpertPlan {
  int64_t routed_bytes = 0;  // of one routed expert
  int64_t shared_bytes = 0;  // of one layer's shared expert
  int64_t total_bytes = 0;   // of all layers, each expert once
  int64_t num_layers = 0;    // that have experts
  int64_t min_nodes = 0;     // that hold them once; 0: one expert is larger than a node
  int64_t num_nodes = 0;     // as asked for, or min_nodes
  // Even placement over num_nodes: what a node holds, of all layers together.
  int64_t min_routed = 0, max_routed = 0;
  int64_t min_shared = 0, max_shared = 0;
  int64_t max_node_bytes = 0;
  bool fits = false;
  // Rows of one expert, and tokens of a batch with even load, from which on arithmetic takes longer
  // than reading weights.
  double compute_bound_rows = 0;
  double compute_bound_tokens = 0;
};

// Payload of one token through the model, one way each, headers left out.
struct NetworkPlan {
  int64_t row_bytes = 0;  // D values of the wire type
  int64_t moe_layers = 0;
  double rows_to_experts = 0;     // a layer: one a distinct node, expected under even choice
  int64_t rows_from_experts = 0;  // a layer: one an expert, unreduced
  double inline_bytes = 0;        // a token, all layers: attention node to expert nodes and back
  double service_bytes = 0;       // with routers between: two rows a layer more
};

struct Plan {
  PlanOptions options;
  ParamCount params;       // of the main model
  int64_t mtp_params = 0;  // of MTP layers; speculating nodes hold the first, but for its copies
                           // of embedding and head
  std::vector<PartSize> parts;  // of the main model, in ModelPart's order, empty parts left out
  int64_t active_bytes = 0;     // of weights that one token meets, in memory
  std::vector<CacheForm>
      cache;  // as the model has it first, then what the same heads would take otherwise
  AttentionPlan attention;
  ExpertPlan experts;  // zeros for a dense model
  NetworkPlan network;
};

// InvalidArgument for numbers that mean nothing (no memory, no context, a share outside (0, 1],
// ...), and for speculation without an MTP layer.
StatusOr<Plan> MakePlan(const PlanOptions& options);

// The plan as text of several short tables, ending in a line feed.
std::string PlanToText(const Plan& plan);

}  // namespace atl::model
