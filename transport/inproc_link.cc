// The two ends of an in-process link. Each end has an inbox that the other end fills; the
// receiver's loop empties it.
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>

#include "transport/link.h"

namespace atl::transport {
namespace {

class InprocEnd : public std::enable_shared_from_this<InprocEnd> {
 public:
  InprocEnd(EventLoop* loop, bool same_loop, const LinkLimits& limits)
      : loop_(loop),
        same_loop_(same_loop),
        inbox_limit_(limits.window_bytes + limits.queue_bytes) {}

  void SetPeer(const std::shared_ptr<InprocEnd>& peer) { peer_ = peer; }
  const LinkStats& stats() const { return stats_; }

  void SetCallbacks(std::function<void(Frame)> on_frame, std::function<void(Status)> on_closed) {
    on_frame_ = std::make_shared<std::function<void(Frame)>>(std::move(on_frame));
    on_closed_ = std::move(on_closed);
    PostToSelf(&InprocEnd::Settle);
  }

  Status Send(FrameHeader header, Buffer payload) {
    if (closed_) return Unavailable("inproc link is closed: %s", std::string(closed_->message()));
    if (payload.size() > kMaxPayloadBytes) {
      return InvalidArgument("frame payload of %d bytes, expected at most %d", payload.size(),
                             kMaxPayloadBytes);
    }
    const std::shared_ptr<InprocEnd> peer = peer_.lock();
    if (peer == nullptr) return Unavailable("inproc link: the peer is gone");
    const uint64_t bytes = payload.size();
    header.payload_bytes = static_cast<uint32_t>(bytes);
    ATL_RETURN_IF_ERROR(peer->Accept(Frame{header, std::move(payload)}));
    ++stats_.frames_sent;
    stats_.bytes_sent += bytes;
    if (same_loop_) peer->Drain();
    return absl::OkStatus();
  }

  void Close(const Status& why) {
    if (closed_) return;
    {
      std::lock_guard lock(mu_);
      refusing_ = true;
      inbox_.clear();
    }
    closed_ = why;
    PostToSelf(&InprocEnd::Settle);
    if (const std::shared_ptr<InprocEnd> peer = peer_.lock()) {
      peer->loop_->Post([weak = std::weak_ptr(peer), message = std::string(why.message())] {
        if (const std::shared_ptr<InprocEnd> end = weak.lock()) end->PeerClosed(message);
      });
    }
  }

  // The link was destroyed: nobody may be called any more.
  void Abandon() {
    Close(Unavailable("the link was destroyed"));
    on_frame_ = nullptr;
    on_closed_ = nullptr;
  }

 private:
  // Called by the peer, on its thread.
  Status Accept(Frame frame) {
    bool post;
    {
      std::lock_guard lock(mu_);
      const int64_t bytes = kFrameHeaderBytes + static_cast<int64_t>(frame.payload.size());
      if (refusing_) return Unavailable("inproc link: the peer has closed it");
      if (inbox_bytes_ + bytes > inbox_limit_) {
        return ResourceExhausted(
            "inproc link: %d bytes wait at the peer, no room for %d more (limit %d)", inbox_bytes_,
            bytes, inbox_limit_);
      }
      inbox_.push_back(std::move(frame));
      inbox_bytes_ += bytes;
      post = !same_loop_ && !std::exchange(drain_posted_, true);
    }
    if (post) PostToSelf(&InprocEnd::Drain);
    return absl::OkStatus();
  }

  void Drain() {
    if (delivering_ || on_frame_ == nullptr) {
      std::lock_guard lock(mu_);
      drain_posted_ = false;
      return;
    }
    const auto self = shared_from_this();
    const auto on_frame = on_frame_;  // outlives a link destroyed by its own callback
    delivering_ = true;
    while (!closed_) {
      std::optional<Frame> frame = TakeOne();
      if (!frame) break;
      ++stats_.frames_received;
      stats_.bytes_received += frame->payload.size();
      (*on_frame)(*std::move(frame));
    }
    delivering_ = false;
  }

  std::optional<Frame> TakeOne() {
    std::lock_guard lock(mu_);
    if (inbox_.empty()) {
      drain_posted_ = false;
      return std::nullopt;
    }
    Frame frame = std::move(inbox_.front());
    inbox_.pop_front();
    inbox_bytes_ -= kFrameHeaderBytes + static_cast<int64_t>(frame.payload.size());
    return frame;
  }

  void PeerClosed(const std::string& message) {
    if (closed_ || peer_closed_) return;
    peer_closed_ = Unavailable("the peer closed the link: %s", message);
    Settle();
  }

  // From a turn of the loop: hands out what is due.
  void Settle() {
    if (on_frame_ == nullptr) return;
    Drain();
    if (!closed_ && peer_closed_) closed_ = peer_closed_;
    if (!closed_ || on_closed_ == nullptr) return;
    std::exchange(on_closed_, nullptr)(*closed_);
  }

  void PostToSelf(void (InprocEnd::*method)()) {
    loop_->Post([weak = weak_from_this(), method] {
      if (const std::shared_ptr<InprocEnd> end = weak.lock()) ((*end).*method)();
    });
  }

  EventLoop* const loop_;
  const bool same_loop_;
  const int64_t inbox_limit_;
  std::weak_ptr<InprocEnd> peer_;  // constant after MakeInprocLinks

  // Guarded by mu_ (a std::mutex: ThreadSanitizer does not see into Debian's absl).
  std::mutex mu_;
  std::deque<Frame> inbox_;
  int64_t inbox_bytes_ = 0;
  bool drain_posted_ = false;
  bool refusing_ = false;

  // loop_'s thread only.
  std::shared_ptr<std::function<void(Frame)>> on_frame_;
  std::function<void(Status)> on_closed_;
  bool delivering_ = false;
  std::optional<Status> closed_;
  std::optional<Status> peer_closed_;
  LinkStats stats_;
};

class InprocLink : public Link {
 public:
  explicit InprocLink(std::shared_ptr<InprocEnd> end) : end_(std::move(end)) {}
  ~InprocLink() override { end_->Abandon(); }
  void SetCallbacks(std::function<void(Frame)> on_frame,
                    std::function<void(Status)> on_closed) override {
    end_->SetCallbacks(std::move(on_frame), std::move(on_closed));
  }
  Status Send(FrameHeader header, Buffer payload) override {
    return end_->Send(header, std::move(payload));
  }
  void Close(const Status& why) override { end_->Close(why); }
  LinkKind kind() const override { return LinkKind::kInproc; }
  const LinkStats& stats() const override { return end_->stats(); }

 private:
  const std::shared_ptr<InprocEnd> end_;
};

}  // namespace

std::pair<std::unique_ptr<Link>, std::unique_ptr<Link>> MakeInprocLinks(EventLoop* loop_a,
                                                                        EventLoop* loop_b,
                                                                        const LinkLimits& limits) {
  const auto a = std::make_shared<InprocEnd>(loop_a, loop_a == loop_b, limits);
  const auto b = std::make_shared<InprocEnd>(loop_b, loop_a == loop_b, limits);
  a->SetPeer(b);
  b->SetPeer(a);
  return {std::make_unique<InprocLink>(a), std::make_unique<InprocLink>(b)};
}

}  // namespace atl::transport
