// Where experts should be: a pure, deterministic function of who is there and what they hold.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "base/status.h"
#include "cluster/placement.h"

namespace atl::cluster {

struct PlanNode {
  NodeName name;
  std::string zone;          // failure domain; empty: the node is one of its own
  int64_t budget_bytes = 0;  // of packed weights; 0: no bound
  bool draining = false;
  std::vector<LayerExpert> holds;            // as announced
  std::vector<LayerExpert> unreadable = {};  // as announced: it cannot load these
};

struct PlanInput {
  ModelExperts model;
  std::vector<PlanNode> nodes;
  int min_replicas = 1;
};

struct Targets {
  std::map<NodeName, std::vector<LayerExpert>> of_node;  // ascending; draining nodes have none
  int replicas = 1;                                      // of every routed expert
  bool shared_everywhere = false;                        // else as many copies as the routed ones
  int64_t loads = 0;  // experts that a node must load to get there
};

// Every layer's routed experts spread evenly over the nodes that are not draining: node totals are
// as equal as budgets permit, and a layer's share of a node differs by at most one from another
// layer's. Shared experts are on every node if budgets allow, else spread. `min_replicas` copies
// where memory and nodes allow, else as many as they do; never two on one node; in different zones
// where there are such. An expert that its node cannot read goes to one that can and has room,
// whatever the balance. What a node holds it keeps wherever that fits these shares, so a plan for
// what is already balanced moves nothing.
//   ResourceExhausted: the budgets cannot hold the model once (the missing bytes are named).
//   Unavailable: no node.
StatusOr<Targets> PlanTargets(const PlanInput& input);

// What each node may give up at once: held, not in its target, and announced by another node that
// is not draining and has it in its own target (so that it is not giving it up too).
std::map<NodeName, std::vector<LayerExpert>> MayUnload(const std::vector<PlanNode>& nodes,
                                                       const Targets& targets);

}  // namespace atl::cluster
