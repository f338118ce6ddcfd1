#include <algorithm>
#include <utility>

#include "absl/time/clock.h"
#include "base/log.h"
#include "router_service/dispatch/dispatcher_state.h"

namespace atl::dispatch {

using transport::Frame;
using transport::FrameType;

namespace {

constexpr double kLateFactor = 8;       // times the usual time
constexpr double kFixedCostPairs = 64;  // what a frame costs before its first pair, in pairs
constexpr double kUsualDecay = 0.995;   // an answer
constexpr int kHedgeChecks = 4;         // in options.hedge_after
constexpr absl::Duration kSuspectFor = absl::Seconds(10);

}  // namespace

void Dispatcher::State::OnFrame(const cluster::NodeName& name, Frame frame) {
  if (frame.header.type == FrameType::kLoad || frame.header.type == FrameType::kPong) return;
  const auto it = works.find(frame.header.call_id);
  if (it == works.end() || it->second.node != name) return;  // late: nobody waits for it any more
  if (const Status bad = CheckAnswer(it->second, frame); !bad.ok()) {
    // A node that answers nonsense is as good as dead: its link goes, its work is done again
    // elsewhere.
    LogWarning("link to %s closed: %s", name, bad.ToString());
    nodes.at(name).link->Close(bad);
    return;
  }
  const Work work = std::move(it->second);
  works.erase(it);
  nodes.at(name).outstanding_rows -= work.pairs.size();
  Call& call = calls.at(work.call_id);
  call.works.erase(frame.header.call_id);
  if (frame.header.type == FrameType::kError) return OnError(name, work, ErrorOf(frame));
  NoteTime(work);
  call.routed->AddOuts(work.pairs, std::move(frame.payload));
  // Progress: the coverage timeout counts from the next time that something waits.
  if (call.waiting.empty() && call.coverage_timer != 0)
    loop->CancelTimer(std::exchange(call.coverage_timer, 0));
  if (call.routed->complete()) Finish(work.call_id, Combine(*call.routed));
}

Status Dispatcher::State::CheckAnswer(const Work& work, const Frame& frame) const {
  if (frame.header.type != FrameType::kOuts && frame.header.type != FrameType::kError) {
    return InvalidArgument("work was answered with a frame of type %d",
                           static_cast<int>(frame.header.type));
  }
  ATL_RETURN_IF_ERROR(CheckPayload(shape, frame));
  if (frame.header.type == FrameType::kOuts && frame.header.pairs != work.pairs.size()) {
    return InvalidArgument("outs of %d pairs, expected %d", frame.header.pairs, work.pairs.size());
  }
  return absl::OkStatus();
}

void Dispatcher::State::OnError(const cluster::NodeName& name, const Work& work,
                                const Status& error) {
  const absl::StatusCode code = error.code();
  if (code != absl::StatusCode::kNotFound && code != absl::StatusCode::kResourceExhausted &&
      code != absl::StatusCode::kUnavailable) {
    return Finish(work.call_id, Annotate(error, "expert node " + name));
  }
  LogDebug("expert node %s: %s", name, error.ToString());
  calls.at(work.call_id).avoid.insert(name);
  retries.fetch_add(1);
  Send(work.call_id, work.pairs);
}

int Dispatcher::State::LostNodes(const Call& call, const std::vector<int32_t>& pairs) {
  int most = 0;
  if (call.lost_nodes.empty()) return most;
  for (const int32_t i : pairs) most = std::max<int>(most, call.lost_nodes[i]);
  return most;
}

void Dispatcher::State::LoseNode(const cluster::NodeName& name, const Status& why, bool died) {
  std::map<uint64_t, std::vector<int32_t>> lost;  // call -> pairs
  for (auto it = works.begin(); it != works.end();) {
    if (it->second.node != name) {
      ++it;
      continue;
    }
    std::vector<int32_t>& pairs = lost[it->second.call_id];
    pairs.insert(pairs.end(), it->second.pairs.begin(), it->second.pairs.end());
    calls.at(it->second.call_id).works.erase(it->first);
    it = works.erase(it);
  }
  nodes.erase(name);
  for (auto& [call_id, pairs] : lost) {
    const auto it = calls.find(call_id);
    if (it == calls.end()) continue;  // ended by another's `done`
    Call& call = it->second;
    std::sort(pairs.begin(), pairs.end());
    if (died) {
      call.lost_nodes.resize(call.routed->num_pairs(), 0);
      for (const int32_t i : pairs) ++call.lost_nodes[i];
    }
    if (const int lost = LostNodes(call, pairs); lost >= options.max_lost_nodes) {
      Finish(call_id, Internal("work of layer %d has lost %d expert nodes, the last one %s: %s",
                               call.routed->call().layer, lost, name, why.ToString()));
      continue;
    }
    retries.fetch_add(1);
    Send(call_id, pairs);
  }
}

// Hedging.

void Dispatcher::State::NoteTime(const Work& work) {
  const double us = absl::ToDoubleMicroseconds(absl::Now() - work.sent);
  usual_us_per_pair =
      std::max(usual_us_per_pair * kUsualDecay, us / (kFixedCostPairs + work.pairs.size()));
}

void Dispatcher::State::ArmHedgeTimer() {
  if (hedge_timer != 0) return;
  hedge_timer = loop->RunAt(absl::Now() + options.hedge_after / kHedgeChecks, [this] {
    hedge_timer = 0;
    HedgeLateWork();
    if (!works.empty()) ArmHedgeTimer();
  });
}

void Dispatcher::State::HedgeLateWork() {
  const absl::Time now = absl::Now();
  std::vector<uint64_t> late;
  for (const auto& [id, work] : works) {
    const absl::Duration usual = absl::Microseconds(
        usual_us_per_pair * (kFixedCostPairs + static_cast<double>(work.pairs.size())));
    if ((!work.hedged || !work.unhedged.empty()) &&
        now - work.sent > std::max(options.hedge_after, kLateFactor * usual))
      late.push_back(id);
  }
  std::sort(late.begin(), late.end());
  for (uint64_t id : late) {
    const auto it = works.find(id);
    if (it == works.end()) continue;  // its call was ended by a direct answer
    const bool again = std::exchange(it->second.hedged, true);
    const std::vector<int32_t> pairs = again ? it->second.unhedged : it->second.pairs;
    const auto node = nodes.find(it->second.node);
    if (node != nodes.end()) node->second.suspect_until = now + kSuspectFor;
    // Not to a node that is late with this call's work, too.
    const Call& call = calls.at(it->second.call_id);
    std::set<cluster::NodeName> but = call.avoid;
    for (uint64_t other : call.works) {
      if (works.at(other).hedged) but.insert(works.at(other).node);
    }
    const std::vector<int32_t> unplaced = Assign(it->second.call_id, pairs, but);
    const bool none = unplaced.size() == pairs.size();
    if (const auto asked = works.find(id); asked != works.end()) {  // a direct answer may end it
      asked->second.hedged = again || !none;
      asked->second.unhedged = none && !again ? std::vector<int32_t>() : unplaced;
    }
    if (none) continue;  // no other holder: looked for again at the next check
    hedges.fetch_add(1);
    retries.fetch_add(1);
  }
}

}  // namespace atl::dispatch
