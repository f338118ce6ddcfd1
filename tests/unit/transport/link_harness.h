// Two joined ends of every kind of link, on loops that the test pumps itself.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "absl/time/clock.h"
#include "transport/endpoint.h"
#include "transport/link.h"

namespace atl::transport {

enum class PairKind { kInprocSameLoop, kInprocTwoLoops, kShm, kUnix, kTcp };

inline std::string PairKindName(const testing::TestParamInfo<PairKind>& info) {
  switch (info.param) {
    case PairKind::kInprocSameLoop:
      return "InprocSameLoop";
    case PairKind::kInprocTwoLoops:
      return "InprocTwoLoops";
    case PairKind::kShm:
      return "Shm";
    case PairKind::kUnix:
      return "Unix";
    case PairKind::kTcp:
      return "Tcp";
  }
  return "Unknown";
}

inline Endpoint FreeEndpoint(LinkKind kind) {
  static int count = 0;
  if (kind == LinkKind::kTcp) return {.kind = kind, .address = "127.0.0.1:0"};
  return {.kind = kind, .address = absl::StrFormat("@atoll-link-test-%d-%d", getpid(), count++)};
}

// Pumps until `ready` holds; false after 20 s. A single loop sleeps for `sleep` at most.
inline bool PumpUntil(std::initializer_list<EventLoop*> loops, const std::function<bool()>& ready,
                      absl::Duration sleep = absl::Milliseconds(100)) {
  const absl::Time deadline = absl::Now() + absl::Seconds(20);
  while (!ready()) {
    if (absl::Now() > deadline) return false;
    for (EventLoop* loop : loops) loop->RunOnce(loops.size() > 1 ? absl::ZeroDuration() : sleep);
  }
  return true;
}

class LinkPair {
 public:
  explicit LinkPair(PairKind kind, const LinkLimits& limits = {}) {
    if (kind == PairKind::kInprocSameLoop || kind == PairKind::kInprocTwoLoops) {
      loop_b_ = kind == PairKind::kInprocSameLoop ? &first_ : &second_;
      std::tie(a, b) = MakeInprocLinks(&first_, loop_b_, limits);
      return;
    }
    loop_b_ = &second_;
    TicketBook tickets;
    auto listener = LinkListener::Listen(&second_,
                                         FreeEndpoint(kind == PairKind::kShm    ? LinkKind::kShm
                                                      : kind == PairKind::kUnix ? LinkKind::kUnix
                                                                                : LinkKind::kTcp),
                                         &tickets, limits,
                                         [&](const std::string& peer, std::unique_ptr<Link> link) {
                                           EXPECT_EQ(peer, "end a");
                                           b = std::move(link);
                                         });
    EXPECT_TRUE(listener.ok()) << listener.status();
    ConnectLink(&first_, (*listener)->endpoint(), tickets.Issue("end a"), limits, absl::Seconds(10),
                [&](StatusOr<std::unique_ptr<Link>> link) {
                  EXPECT_TRUE(link.ok()) << link.status();
                  if (link.ok()) a = *std::move(link);
                });
    EXPECT_TRUE(Pump([&] { return a != nullptr && b != nullptr; }));
  }

  bool Pump(const std::function<bool()>& ready) {
    if (loop_b_ == &first_) return PumpUntil({&first_}, ready);
    return PumpUntil({&first_, &second_}, ready);
  }
  // Turns enough for everything that is on its way, without waiting for anything.
  void PumpSome() {
    for (int i = 0; i < 50; ++i) {
      first_.RunOnce(absl::ZeroDuration());
      second_.RunOnce(absl::ZeroDuration());
    }
  }
  EventLoop* loop_a() { return &first_; }
  EventLoop* loop_b() { return loop_b_; }

 private:
  EventLoop first_;
  EventLoop second_;
  EventLoop* loop_b_ = nullptr;

 public:
  std::unique_ptr<Link> a;
  std::unique_ptr<Link> b;
};

// A payload whose every byte is a function of its seed.
inline Buffer Pattern(size_t size, uint64_t seed) {
  Buffer out(size);
  uint64_t v = seed * 0x9e3779b97f4a7c15 + 1;
  for (size_t i = 0; i < size; ++i) {
    if (i % 8 == 0) v = v * 6364136223846793005 + 1442695040888963407;
    out.data()[i] = static_cast<std::byte>(v >> (8 * (i % 8)));
  }
  return out;
}

inline bool IsPattern(const Buffer& payload, size_t size, uint64_t seed) {
  const Buffer expected = Pattern(size, seed);
  return payload.size() == size &&
         std::equal(payload.data(), payload.data() + size, expected.data());
}

inline FrameHeader CallHeader(uint64_t call_id) {
  return {.type = FrameType::kPing, .call_id = call_id};
}

}  // namespace atl::transport
