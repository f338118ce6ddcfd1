// Who computed what: the nodes' own counters, before and after.
#pragma once

#include <grpcpp/channel.h>

#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "atollpb/v1/inference.pb.h"

namespace atl::cli {

struct WorkSnapshot {
  struct AttentionWork {
    uint64_t prefill_tokens = 0;
    uint64_t cached_tokens = 0;
    uint64_t decode_tokens = 0;
  };
  std::string front_door;  // name of the router that was asked; empty: no cluster there
  std::map<std::string, AttentionWork> attention;  // by node name
  std::map<std::string, uint64_t> dispatch_calls;  // of each router
  std::map<std::string, uint64_t> expert_rows;     // (row, expert) pairs of each expert node
};

// Asks the router at the other end of `router` for the nodes, then each of them. What does not
// answer within 2 s is left out.
WorkSnapshot TakeWorkSnapshot(const std::shared_ptr<grpc::Channel>& router);

// One line: "router-0 answered; attention-1 computed 9 + 36 tokens; ...". Work of others in that
// time is in it too. Pure.
std::string DescribeWork(const WorkSnapshot& before, const WorkSnapshot& after);
// One line: "36 tokens, 118.2 tokens/s, first after 0.041 s". Pure.
std::string DescribeSpeed(const atollpb::v1::GenerateResponse& answer);

}  // namespace atl::cli
