// One attention node as a router sees it: in another process (gRPC) or in this one.
#pragma once

#include <memory>
#include <string>

#include "atollpb/v1/attention.pb.h"
#include "base/status.h"

namespace atl::attention {

// Told of a run's progress, from any thread but one call at a time; must not block. After OnDone
// nothing comes.
class RunObserver {
 public:
  virtual ~RunObserver() = default;
  virtual void OnResponse(atollpb::v1::RunResponse response) = 0;
  // Exactly once. OK only after a response with a finish_reason.
  virtual void OnDone(const Status& status) = 0;
};

// A run under way. Destroying it before OnDone cancels it; no observer call is made after the
// destructor has returned.
class Run {
 public:
  virtual ~Run() = default;
  virtual void Cancel() = 0;  // OnDone(Cancelled) follows, unless the run has ended
};

// Thread-safe.
class AttentionBackend {
 public:
  virtual ~AttentionBackend() = default;
  // `observer` must outlive the Run. Errors as in attention.proto, told by OnDone.
  virtual std::unique_ptr<Run> Start(const atollpb::v1::RunStart& start, RunObserver* observer) = 0;
};

// Over gRPC to the node at `address` (HOST:PORT).
std::unique_ptr<AttentionBackend> MakeRemoteAttention(const std::string& address);

}  // namespace atl::attention
