#include "router_service/dispatch/inline_fabric.h"

#include <map>
#include <optional>
#include <utility>

#include "base/check.h"

namespace atl::dispatch {
namespace {

class InlineFabric : public ExpertFabric {
 public:
  InlineFabric(transport::EventLoop* loop, Dispatcher* dispatcher) : loop_(loop), dispatcher_(dispatcher) {}

  uint64_t Submit(DispatchCall call) override {
    const uint64_t id = next_id_++;
    results_[id];  // open
    dispatcher_->Submit(std::move(call), [this, id](StatusOr<Buffer> y) { results_[id] = std::move(y); });
    return id;
  }

  Status Wait(uint64_t call_id, Buffer* y) override {
    auto it = results_.find(call_id);
    ATL_CHECK(it != results_.end());
    // The dispatcher ends every call by its own timers; the bound here only keeps the loop turning.
    while (!it->second.has_value()) loop_->RunOnce(absl::Seconds(1));
    StatusOr<Buffer> result = *std::move(it->second);
    results_.erase(it);
    if (!result.ok()) return result.status();
    *y = *std::move(result);
    return absl::OkStatus();
  }

 private:
  transport::EventLoop* const loop_;
  Dispatcher* const dispatcher_;
  std::map<uint64_t, std::optional<StatusOr<Buffer>>> results_;
  uint64_t next_id_ = 1;
};

}  // namespace

std::unique_ptr<ExpertFabric> MakeInlineFabric(transport::EventLoop* loop, Dispatcher* dispatcher) {
  return std::make_unique<InlineFabric>(loop, dispatcher);
}

}  // namespace atl::dispatch
