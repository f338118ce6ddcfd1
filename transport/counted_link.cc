#include "transport/counted_link.h"

#include <utility>

namespace atl::transport {
namespace {

class CountedLink : public Link {
 public:
  CountedLink(std::unique_ptr<Link> link, LinkCounters* counters)
      : link_(std::move(link)),
        counters_(&counters->of(link_->kind())),
        dead_(std::make_shared<bool>(false)) {
    counters_->open.fetch_add(1, std::memory_order_relaxed);
  }
  ~CountedLink() override { counters_->open.fetch_sub(1, std::memory_order_relaxed); }

  // A callback may destroy this link: it counts without it.
  void SetCallbacks(std::function<void(Frame)> on_frame,
                    std::function<void(Status)> on_closed) override {
    link_->SetCallbacks(
        [counters = counters_, on_frame = std::move(on_frame)](Frame frame) {
          counters->received_frames.fetch_add(1, std::memory_order_relaxed);
          counters->received_bytes.fetch_add(frame.payload.size(), std::memory_order_relaxed);
          on_frame(std::move(frame));
        },
        [counters = counters_, dead = dead_, on_closed = std::move(on_closed)](Status why) {
          NoteDeath(counters, dead.get());
          on_closed(std::move(why));
        });
  }

  Status Send(FrameHeader header, Buffer payload) override {
    LinkCounters::Kind* const counters = counters_;  // a direct answer may destroy this link
    const uint64_t bytes = payload.size();
    Status sent = link_->Send(header, std::move(payload));
    if (sent.ok()) {
      counters->sent_frames.fetch_add(1, std::memory_order_relaxed);
      counters->sent_bytes.fetch_add(bytes, std::memory_order_relaxed);
    }
    return sent;
  }

  void Close(const Status& why) override {
    NoteDeath(counters_, dead_.get());
    link_->Close(why);
  }

  LinkKind kind() const override { return link_->kind(); }
  const LinkStats& stats() const override { return link_->stats(); }

 private:
  static void NoteDeath(LinkCounters::Kind* counters, bool* dead) {
    if (!std::exchange(*dead, true)) counters->deaths.fetch_add(1, std::memory_order_relaxed);
  }

  const std::unique_ptr<Link> link_;
  LinkCounters::Kind* const counters_;
  const std::shared_ptr<bool> dead_;
};

}  // namespace

std::unique_ptr<Link> CountLink(std::unique_ptr<Link> link, LinkCounters* counters) {
  return std::make_unique<CountedLink>(std::move(link), counters);
}

}  // namespace atl::transport
