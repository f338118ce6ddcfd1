#include "router_service/dispatch/inline_fabric.h"

#include <map>
#include <optional>
#include <utility>

#include "base/check.h"

namespace atl::dispatch {
namespace {

class InlineFabric : public ExpertFabric {
 public:
  InlineFabric(transport::EventLoop* loop, Dispatcher* dispatcher)
      : loop_(loop), dispatcher_(dispatcher) {}
  ~InlineFabric() override {
    for (const auto& [id, call] : calls_) dispatcher_->Cancel(call.dispatched);
  }

  uint64_t Submit(DispatchCall request) override {
    const uint64_t id = next_id_++;
    calls_[id];  // before Submit, which may answer from inside
    const uint64_t dispatched = dispatcher_->Submit(
        std::move(request), [this, id](StatusOr<Buffer> y) { calls_[id].result = std::move(y); });
    calls_[id].dispatched = dispatched;
    return id;
  }

  Status Wait(uint64_t call_id, Buffer* y) override {
    const auto it = calls_.find(call_id);
    ATL_CHECK(it != calls_.end());
    // The dispatcher ends every call by its own timers: its options' call_timeout at the latest.
    Status goes_on = GoesOn();
    while (!it->second.result.has_value() && goes_on.ok()) {
      loop_->RunOnce(absl::Seconds(1));
      goes_on = GoesOn();
    }
    if (!it->second.result.has_value()) {
      dispatcher_->Cancel(it->second.dispatched);
      calls_.erase(it);
      return goes_on;
    }
    StatusOr<Buffer> result = *std::move(it->second.result);
    calls_.erase(it);
    if (!result.ok()) return result.status();
    *y = *std::move(result);
    return absl::OkStatus();
  }

 private:
  struct Call {
    uint64_t dispatched = 0;
    std::optional<StatusOr<Buffer>> result;
  };

  transport::EventLoop* const loop_;
  Dispatcher* const dispatcher_;
  std::map<uint64_t, Call> calls_;
  uint64_t next_id_ = 1;
};

}  // namespace

std::unique_ptr<ExpertFabric> MakeInlineFabric(transport::EventLoop* loop, Dispatcher* dispatcher) {
  return std::make_unique<InlineFabric>(loop, dispatcher);
}

}  // namespace atl::dispatch
