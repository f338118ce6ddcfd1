// Links through shared memory against peers that do not behave: nothing that they write there, at
// any time, may do more than end their link.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <optional>
#include <random>
#include <thread>
#include <vector>

#include "tests/unit/transport/link_harness.h"
#include "transport/hello.h"
#include "transport/shm_stream.h"
#include "transport/socket_address.h"

namespace atl::transport {
namespace {

constexpr int64_t kPeerWindow = 1 << 20;

// A blocking unix socket joined to `endpoint`.
int RawConnect(const Endpoint& endpoint) {
  const StatusOr<SocketAddress> address = ToSocketAddress(endpoint);
  const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  EXPECT_EQ(connect(fd, address->get(), address->size), 0) << strerror(errno);
  return fd;
}

// A connecting peer that has passed the handshake and has the memory in its hands; our end tells
// its frames and its end here.
class ShmLinkTest : public testing::Test {
 protected:
  void Start(const LinkLimits& limits = {.window_bytes = 1 << 20, .queue_bytes = 64 << 20}) {
    auto listener = LinkListener::Listen(
        &loop_, FreeEndpoint(LinkKind::kShm), &tickets_, limits,
        [this](const std::string&, std::unique_ptr<Link> link) { link_ = std::move(link); });
    ASSERT_TRUE(listener.ok()) << listener.status();
    socket_ = RawConnect((*listener)->endpoint());
    const HelloBytes hello =
        EncodeHello({.ticket = tickets_.Issue("raw"), .window_bytes = kPeerWindow});
    ASSERT_EQ(write(socket_, hello.data(), hello.size()), hello.size());
    ASSERT_TRUE(PumpUntil({&loop_}, [&] { return link_ != nullptr; }));
    link_->SetCallbacks([this](Frame f) { frames_.push_back(std::move(f)); },
                        [this](Status s) { end_ = std::move(s); });
    HelloAnswerBytes answer;
    ASSERT_EQ(ReceiveWithDescriptor(socket_, answer, &memory_fd_), answer.size());
    const size_t bytes = ShmBytes(limits.window_bytes, kPeerWindow);
    void* const map = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, memory_fd_, 0);
    ASSERT_NE(map, MAP_FAILED);
    memory_ = static_cast<std::byte*>(map);
    memory_bytes_ = bytes;
    control_ = reinterpret_cast<ShmControl*>(memory_);
    ring_ = memory_ + kShmControlBytes;
    ring_bytes_ = ShmRingBytes(limits.window_bytes);
  }
  void TearDown() override {
    if (memory_ != nullptr) munmap(memory_, memory_bytes_);
    if (memory_fd_ >= 0) close(memory_fd_);
    if (socket_ >= 0) close(socket_);
  }

  void WakeUp() { EXPECT_EQ(send(socket_, "x", 1, MSG_NOSIGNAL), 1); }
  void Publish(uint64_t written) {
    std::atomic_ref(control_->to_listener.written).store(written);
    WakeUp();
  }
  // At the beginning of the ring.
  void SendFrame(const FrameHeader& header, const std::string& payload) {
    EncodeHeader(header, ring_);
    std::memcpy(ring_ + kFrameHeaderBytes, payload.data(), payload.size());
    Publish(kFrameHeaderBytes + payload.size());
  }
  void ExpectClosedAsBad() {
    ASSERT_TRUE(PumpUntil({&loop_}, [&] { return end_.has_value(); }));
    EXPECT_EQ(end_->code(), absl::StatusCode::kInvalidArgument) << *end_;
  }

  EventLoop loop_;
  TicketBook tickets_;
  std::unique_ptr<Link> link_;
  std::vector<Frame> frames_;
  std::optional<Status> end_;
  int socket_ = -1;
  int memory_fd_ = -1;
  std::byte* memory_ = nullptr;
  size_t memory_bytes_ = 0;
  ShmControl* control_ = nullptr;
  std::byte* ring_ = nullptr;
  uint64_t ring_bytes_ = 0;
};

TEST_F(ShmLinkTest, ARawFrameIsUnderstood) {
  Start();
  FrameHeader header = CallHeader(9);
  header.payload_bytes = 5;
  SendFrame(header, "hello");
  ASSERT_TRUE(PumpUntil({&loop_}, [&] { return frames_.size() == 1; }));
  EXPECT_EQ(frames_[0].header.call_id, 9u);
  EXPECT_EQ(std::memcmp(frames_[0].payload.data(), "hello", 5), 0);
}

TEST_F(ShmLinkTest, AWrittenIndexBeyondTheRingEndsTheLink) {
  Start();
  Publish(ring_bytes_ + 1);
  ExpectClosedAsBad();
}

TEST_F(ShmLinkTest, AWrittenIndexThatGoesBackEndsTheLink) {
  Start();
  SendFrame(CallHeader(1), "");
  ASSERT_TRUE(PumpUntil({&loop_}, [&] { return frames_.size() == 1; }));
  Publish(kFrameHeaderBytes - 1);
  ExpectClosedAsBad();
}

TEST_F(ShmLinkTest, AConsumedIndexAheadOfWhatWasSentEndsTheLink) {
  Start();
  std::atomic_ref(control_->to_connector.consumed).store(uint64_t{1} << 40);
  for (int i = 0; i < 3; ++i)  // more than the ring has
    link_->Send(CallHeader(i), Buffer(kPeerWindow / 2)).IgnoreError();
  ExpectClosedAsBad();
}

TEST_F(ShmLinkTest, BadHeadersEndTheLink) {
  const std::vector<std::pair<const char*, FrameHeader>> cases = {
      {"magic", {.magic = 7}},
      {"larger than the window", {.type = FrameType::kWork, .payload_bytes = (1 << 20) + 1}},
      {"larger than any frame", {.type = FrameType::kWork, .payload_bytes = 0xffffffff}},
      {"a second hello", {.type = FrameType::kHello}},
      {"credit for what was not sent", {.type = FrameType::kCredit, .pairs = 1}},
  };
  for (const auto& [name, header] : cases) {
    SCOPED_TRACE(name);
    Start();
    SendFrame(header, "");
    ExpectClosedAsBad();
    TearDown();
    link_.reset();
    end_.reset();
    memory_fd_ = -1;
  }
}

// What counts is the header as it was when it was read.
TEST_F(ShmLinkTest, AHeaderChangedAfterItWasReadChangesNothing) {
  Start();
  FrameHeader header = CallHeader(3);
  header.payload_bytes = 100;
  SendFrame(header, "");
  for (int i = 0; i < 5; ++i) loop_.RunOnce(absl::ZeroDuration());
  header.payload_bytes = 0x7fffffff;
  EncodeHeader(header, ring_);
  std::memset(ring_ + kFrameHeaderBytes, 'p', 100);
  Publish(kFrameHeaderBytes + 100);
  ASSERT_TRUE(PumpUntil({&loop_}, [&] { return frames_.size() == 1; }));
  EXPECT_EQ(frames_[0].payload.size(), 100u);
  EXPECT_EQ(frames_[0].payload.data()[99], std::byte{'p'});
}

TEST_F(ShmLinkTest, TheMemoryCannotBeCutOff) {
  Start();
  EXPECT_EQ(ftruncate(memory_fd_, 0), -1);
  EXPECT_EQ(errno, EPERM);
  EXPECT_EQ(fcntl(memory_fd_, F_ADD_SEALS, F_SEAL_WRITE), -1) << "and no seal can be added";
  // A hole is no cut: what is touched there is zero again.
  EXPECT_EQ(fallocate(memory_fd_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
                      static_cast<off_t>(memory_bytes_)),
            0);
  WakeUp();
  for (int i = 0; i < 5; ++i) loop_.RunOnce(absl::ZeroDuration());
  FrameHeader header = CallHeader(9);
  header.payload_bytes = 5;
  SendFrame(header, "still");
  ASSERT_TRUE(PumpUntil({&loop_}, [&] { return frames_.size() == 1; }));
}

TEST_F(ShmLinkTest, WakeUpsForNothingAreHarmless) {
  Start();
  const std::string many(1 << 16, 'x');
  ASSERT_EQ(send(socket_, many.data(), many.size(), MSG_NOSIGNAL), many.size());
  SendFrame(CallHeader(1), "");
  ASSERT_TRUE(PumpUntil({&loop_}, [&] { return frames_.size() == 1; }));
  EXPECT_FALSE(end_.has_value());
}

// A peer that says it sleeps, and takes no wake-up: its socket fills, nobody waits for it.
TEST_F(ShmLinkTest, AFullSocketOfWakeUpsDoesNotBlock) {
  Start({.window_bytes = 1 << 20, .queue_bytes = 64 << 20});
  for (int i = 0; i < 20'000; ++i) {
    std::atomic_ref(control_->connector_asleep).store(1);
    std::atomic_ref(control_->to_connector.consumed)
        .store(std::atomic_ref(control_->to_connector.written).load());
    ASSERT_TRUE(link_->Send(CallHeader(i), {}).ok());
  }
  EXPECT_FALSE(end_.has_value());
}

// Random bytes over everything, while frames go both ways.
TEST_F(ShmLinkTest, ScribblingAtMostEndsTheLink) {
  for (int round = 0; round < 30; ++round) {
    Start({.window_bytes = 20'000, .queue_bytes = 1 << 20});
    std::atomic<bool> stop{false};
    std::thread scribbler([&] {
      std::mt19937_64 rng(round);
      FrameHeader header = CallHeader(round);
      while (!stop) {
        // Mostly the rings; a valid header here and there, so that some are believed.
        const size_t place = rng() % 16 == 0 ? rng() % sizeof(ShmControl) : rng() % memory_bytes_;
        const uint64_t value = rng() % 2 == 0 ? rng() : rng() % 30'000;
        std::memcpy(memory_ + std::min(place, memory_bytes_ - 8), &value, 8);
        header.payload_bytes = rng() % 20'001;
        EncodeHeader(header, ring_ + rng() % (ring_bytes_ - kFrameHeaderBytes));
        std::atomic_ref(control_->to_listener.written).fetch_add(rng() % 4096);
      }
    });
    const absl::Time until = absl::Now() + absl::Milliseconds(20);
    while (!end_ && absl::Now() < until) {
      link_->Send(CallHeader(1), Buffer(5000)).IgnoreError();
      loop_.RunOnce(absl::ZeroDuration());
    }
    stop = true;
    scribbler.join();
    if (end_) {
      EXPECT_EQ(end_->code(), absl::StatusCode::kInvalidArgument) << *end_;
    }
    TearDown();
    memory_ = nullptr;
    memory_fd_ = socket_ = -1;
    link_.reset();
    frames_.clear();
    end_.reset();
  }
}

TEST_F(ShmLinkTest, SendToADeadPeerEndsTheLink) {
  Start();
  std::atomic_ref(control_->connector_asleep).store(1);
  close(std::exchange(socket_, -1));
  // Into memory: the death is told by the loop. The wake-up must not raise SIGPIPE.
  link_->Send(CallHeader(1), Buffer(1000)).IgnoreError();
  EXPECT_FALSE(end_.has_value());
  ASSERT_TRUE(PumpUntil({&loop_}, [&] { return end_.has_value(); }));
  EXPECT_EQ(end_->code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(link_->Send(CallHeader(2), {}).code(), absl::StatusCode::kUnavailable);
}

// What it had written before it died is told first, also to an end that was writing meanwhile.
TEST_F(ShmLinkTest, TheLastWordsOfADeadPeerAreHeard) {
  Start();
  SendFrame(CallHeader(7), "");
  close(std::exchange(socket_, -1));
  for (int i = 0; i < 4; ++i) link_->Send(CallHeader(i), Buffer(kPeerWindow / 2)).IgnoreError();
  ASSERT_TRUE(PumpUntil({&loop_}, [&] { return end_.has_value(); }));
  EXPECT_EQ(frames_.size(), 1u);
  EXPECT_EQ(end_->code(), absl::StatusCode::kUnavailable);
}

// What a listener may answer with instead of memory.
class HostileMemoryTest : public testing::Test {
 protected:
  Status ConnectGiven(int passed) {
    const Endpoint endpoint = FreeEndpoint(LinkKind::kShm);
    const StatusOr<SocketAddress> address = ToSocketAddress(endpoint);
    const int listening = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    EXPECT_EQ(bind(listening, address->get(), address->size), 0);
    EXPECT_EQ(listen(listening, 1), 0);
    EventLoop loop;
    std::optional<Status> status;
    ConnectLink(&loop, endpoint, {}, {.window_bytes = kPeerWindow}, absl::Seconds(10),
                [&](auto link) { status = link.status(); });
    const int fd = accept(listening, nullptr, nullptr);
    EXPECT_TRUE(
        SendWithDescriptor(fd, EncodeHelloAnswer(absl::OkStatus(), kPeerWindow), passed).ok());
    EXPECT_TRUE(PumpUntil({&loop}, [&] { return status.has_value(); }));
    for (const int open : {listening, fd, passed}) {
      if (open >= 0) close(open);
    }
    return *status;
  }

  // A memfd of that size with those seals.
  static int Memfd(size_t bytes, int seals) {
    const int fd = memfd_create("hostile", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd >= 0) {
      EXPECT_EQ(ftruncate(fd, static_cast<off_t>(bytes)), 0);
      EXPECT_EQ(fcntl(fd, F_ADD_SEALS, seals), 0);
    }
    return fd;
  }
  static constexpr int kAll = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
  const size_t bytes_ = ShmBytes(kPeerWindow, kPeerWindow);
};

TEST_F(HostileMemoryTest, OnlyASealedMemfdOfTheRightSizeIsTaken) {
  EXPECT_TRUE(ConnectGiven(Memfd(bytes_, kAll)).ok());
  const auto code = [&](int passed) { return ConnectGiven(passed).code(); };
  constexpr auto kBad = absl::StatusCode::kInvalidArgument;
  EXPECT_EQ(code(-1), kBad) << "nothing";
  EXPECT_EQ(code(Memfd(bytes_ - 4096, kAll)), kBad) << "too small";
  EXPECT_EQ(code(Memfd(bytes_ + 4096, kAll)), kBad) << "too large";
  EXPECT_EQ(code(Memfd(0, kAll)), kBad) << "empty";
  EXPECT_EQ(code(Memfd(bytes_, F_SEAL_GROW | F_SEAL_SEAL)), kBad) << "may shrink";
  EXPECT_EQ(code(Memfd(bytes_, F_SEAL_GROW)), kBad) << "may shrink";
  EXPECT_EQ(code(open("/dev/null", O_RDWR | O_CLOEXEC)), kBad) << "a device";
  int pipes[2];
  ASSERT_EQ(pipe2(pipes, O_CLOEXEC), 0);
  EXPECT_EQ(code(pipes[0]), kBad) << "a pipe";
  close(pipes[1]);
}

TEST_F(HostileMemoryTest, ASealAgainstWritingIsRefused) {
  EXPECT_FALSE(ConnectGiven(Memfd(bytes_, kAll | F_SEAL_WRITE)).ok());
}

}  // namespace
}  // namespace atl::transport
