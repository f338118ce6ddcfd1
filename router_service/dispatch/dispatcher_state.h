// What a dispatcher knows: nodes with a live link, calls in flight, and the work that nodes have
// not answered. dispatcher.cc begins and ends calls, dispatcher_send.cc gives work out,
// dispatcher_answers.cc takes what comes back.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include "router_service/dispatch/dispatcher.h"
#include "router_service/dispatch/routed_call.h"
#include "transport/frame.h"

namespace atl::dispatch {

struct Dispatcher::State {
  struct Node {
    std::unique_ptr<transport::Link> link;
    int64_t outstanding_rows = 0;
    absl::Time suspect_until = absl::InfinitePast();  // was late: others are preferred
  };

  // A frame that a node has and has not answered.
  struct Work {
    uint64_t call_id = 0;
    cluster::NodeName node;
    std::vector<int32_t> pairs;
    absl::Time sent;
    bool hedged = false;            // is at another holder too, but for:
    std::vector<int32_t> unhedged;  // pairs that no other holder was there for
  };

  struct Call {
    std::unique_ptr<RoutedCall> routed;
    Done done;
    int64_t began_ns = 0;
    std::vector<int32_t> waiting;       // pairs that no live node takes now
    std::set<cluster::NodeName> avoid;  // answered that they cannot
    std::set<uint64_t> works;
    std::vector<uint8_t> lost_nodes;  // [pairs] that had the pair and died; empty: none
    uint64_t deadline_timer = 0;
    uint64_t coverage_timer = 0;
    uint64_t retry_timer = 0;
    std::array<uint64_t, 3> timers() const { return {deadline_timer, coverage_timer, retry_timer}; }
  };

  transport::EventLoop* loop;
  kernels::KernelContext ctx;
  model::ModelConfig config;
  model::NumericProfile profile;
  const GateWeights* gates;
  DispatcherOptions options;
  transport::PayloadShape shape;
  RouteCounters counters;
  DispatchHistograms histograms;
  RouteHook route_hook;
  std::function<void(const cluster::NodeName&, const Status&)> on_link_closed;

  std::map<cluster::NodeName, Node> nodes;  // with a live link
  std::shared_ptr<const cluster::Placement> placement = std::make_shared<cluster::Placement>();
  std::unordered_map<uint64_t, Call> calls;
  std::unordered_map<uint64_t, Work> works;
  uint64_t next_id = 1;
  uint64_t hedge_timer = 0;  // runs while there is work
  double usual_us_per_pair =
      0;  // of answered work, its fixed cost counted as some pairs; decays from the largest
  std::atomic<int64_t> num_calls{0};
  std::atomic<uint64_t> retries{0};
  std::atomic<uint64_t> submitted{0};
  std::atomic<uint64_t> hedges{0};

  // Beginning and end.
  Status Check(const DispatchCall& request) const;
  // Ends the call: its timers, its outstanding work, then `done`.
  void Finish(uint64_t call_id, StatusOr<Buffer> y);
  Buffer Combine(const RoutedCall& routed);
  void Forget(Call* call);

  // Giving out.
  // Assigns those of `pairs` (ascending) that have no answer to holders and sends them; those
  // without a holder wait.
  void Send(uint64_t call_id, const std::vector<int32_t>& pairs);
  // The same, but not to `but`; returns the pairs without a holder.
  std::vector<int32_t> Assign(uint64_t call_id, const std::vector<int32_t>& pairs,
                              const std::set<cluster::NodeName>& but);
  // The live holder of (layer, expert) that should have it, but none of `but`; null: none.
  Node* Choose(int32_t layer, uint32_t expert, const std::set<cluster::NodeName>& but,
               cluster::NodeName* name);
  void SendWork(uint64_t call_id, const cluster::NodeName& name, std::vector<int32_t> pairs);
  void Wait(uint64_t call_id, const std::vector<int32_t>& pairs);
  void RetryWaiting(uint64_t call_id);
  void RetryAll();

  // What comes back.
  void OnFrame(const cluster::NodeName& name, transport::Frame frame);
  Status CheckAnswer(const Work& work, const transport::Frame& frame) const;
  void OnError(const cluster::NodeName& name, const Work& work, const Status& error);
  void NoteTime(const Work& work);
  // The most nodes that died with one of these pairs.
  static int LostNodes(const Call& call, const std::vector<int32_t>& pairs);
  // The node's link is gone; its work goes elsewhere. `died`: not by our own will.
  void LoseNode(const cluster::NodeName& name, const Status& why, bool died);
  void ArmHedgeTimer();
  void HedgeLateWork();
};

}  // namespace atl::dispatch
