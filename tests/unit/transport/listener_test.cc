#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <optional>
#include <random>
#include <vector>

#include "tests/unit/transport/link_harness.h"
#include "transport/endpoint.h"
#include "transport/hello.h"
#include "transport/socket_address.h"

namespace atl::transport {
namespace {

using testing::HasSubstr;

class ListenerTest : public testing::TestWithParam<LinkKind> {
 protected:
  void Listen(absl::Duration ttl = absl::Seconds(10), const LinkLimits& limits = {}) {
    tickets_ = std::make_unique<TicketBook>(ttl);
    auto listener =
        LinkListener::Listen(&loop_, FreeEndpoint(GetParam()), tickets_.get(), limits,
                             [this](const std::string& peer, std::unique_ptr<Link> link) {
                               peers_.push_back(peer);
                               links_.push_back(std::move(link));
                             });
    ASSERT_TRUE(listener.ok()) << listener.status();
    listener_ = *std::move(listener);
  }

  StatusOr<std::unique_ptr<Link>> Connect(const Ticket& ticket) {
    std::optional<StatusOr<std::unique_ptr<Link>>> result;
    ConnectLink(&loop_, listener_->endpoint(), ticket, {}, absl::Seconds(10),
                [&](StatusOr<std::unique_ptr<Link>> link) { result = std::move(link); });
    EXPECT_FALSE(result.has_value()) << "not from inside ConnectLink";
    EXPECT_TRUE(PumpUntil({&loop_}, [&] { return result.has_value(); }));
    return *std::move(result);
  }

  // A blocking socket to the listener, for peers that do not behave.
  int RawConnect() {
    const StatusOr<SocketAddress> address = ToSocketAddress(listener_->endpoint());
    const int fd = socket(address->storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    EXPECT_EQ(connect(fd, address->get(), address->size), 0) << strerror(errno);
    return fd;
  }

  // A raw peer that has passed the handshake, and our end of its link, whose end is told to end_.
  int RawPeer() {
    const int fd = RawConnect();
    const HelloBytes hello =
        EncodeHello({.ticket = tickets_->Issue("raw"), .window_bytes = 1 << 20});
    EXPECT_EQ(write(fd, hello.data(), hello.size()), hello.size());
    EXPECT_TRUE(PumpUntil({&loop_}, [&] { return !links_.empty(); }));
    links_.back()->SetCallbacks([this](Frame f) { frames_.push_back(std::move(f)); },
                                [this](Status s) { end_ = std::move(s); });
    return fd;
  }

  static void SendFrame(int fd, FrameHeader header, const std::string& payload) {
    header.payload_bytes = payload.size();
    header.payload_crc = Crc32c(std::as_bytes(std::span(payload.data(), payload.size())));
    SendRaw(fd, header, payload);
  }
  static void SendRaw(int fd, const FrameHeader& header, const std::string& payload) {
    std::string bytes(kFrameHeaderBytes, '\0');
    EncodeHeader(header, reinterpret_cast<std::byte*>(bytes.data()));
    bytes += payload;
    EXPECT_EQ(send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL), bytes.size());
  }

  EventLoop loop_;
  std::unique_ptr<TicketBook> tickets_;
  std::unique_ptr<LinkListener> listener_;
  std::vector<std::string> peers_;
  std::vector<std::unique_ptr<Link>> links_;
  std::vector<Frame> frames_;
  std::optional<Status> end_;
};
std::string KindName(const testing::TestParamInfo<LinkKind>& info) {
  std::string name = LinkKindName(info.param);
  name[0] = static_cast<char>(std::toupper(name[0]));
  return name;
}
INSTANTIATE_TEST_SUITE_P(Kinds, ListenerTest,
                         testing::Values(LinkKind::kShm, LinkKind::kUnix, LinkKind::kTcp),
                         KindName);

// Links whose frames go over the socket: a raw peer writes them there.
class SocketListenerTest : public ListenerTest {};
INSTANTIATE_TEST_SUITE_P(Kinds, SocketListenerTest,
                         testing::Values(LinkKind::kUnix, LinkKind::kTcp), KindName);

class TcpListenerTest : public ListenerTest {};
INSTANTIATE_TEST_SUITE_P(Kinds, TcpListenerTest, testing::Values(LinkKind::kTcp), KindName);

TEST_P(ListenerTest, GoodTicketMakesALink) {
  Listen();
  const StatusOr<std::unique_ptr<Link>> link = Connect(tickets_->Issue("attention-3"));
  ASSERT_TRUE(link.ok()) << link.status();
  EXPECT_EQ((*link)->kind(), GetParam());
  EXPECT_EQ(peers_, std::vector<std::string>{"attention-3"});
}

TEST_P(ListenerTest, WrongUsedAndExpiredTicketsAreRefused) {
  Listen();
  EXPECT_EQ(Connect(Ticket{1, 2, 3}).status().code(), absl::StatusCode::kPermissionDenied);
  const Ticket ticket = tickets_->Issue("x");
  ASSERT_TRUE(Connect(ticket).ok());
  EXPECT_EQ(Connect(ticket).status().code(), absl::StatusCode::kPermissionDenied);
  EXPECT_EQ(peers_.size(), 1u);
  listener_ = nullptr;
  Listen(absl::ZeroDuration());
  EXPECT_EQ(Connect(tickets_->Issue("late")).status().code(), absl::StatusCode::kPermissionDenied);
}

TEST_P(ListenerTest, NobodyListens) {
  Listen();
  const Endpoint endpoint = listener_->endpoint();
  listener_ = nullptr;
  std::optional<Status> status;
  ConnectLink(&loop_, endpoint, {}, {}, absl::Seconds(10),
              [&](StatusOr<std::unique_ptr<Link>> link) { status = link.status(); });
  ASSERT_TRUE(PumpUntil({&loop_}, [&] { return status.has_value(); }));
  EXPECT_EQ(status->code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(status->message()), HasSubstr(endpoint.ToString()));
}

TEST_P(ListenerTest, ListenerThatNeverAnswersIsGivenUpInTime) {
  Listen();
  EventLoop other;  // loop_ stands still: the kernel accepts, nobody reads
  std::optional<Status> status;
  ConnectLink(&other, listener_->endpoint(), {}, {}, absl::Milliseconds(20),
              [&](StatusOr<std::unique_ptr<Link>> link) { status = link.status(); });
  ASSERT_TRUE(PumpUntil({&other}, [&] { return status.has_value(); }));
  EXPECT_EQ(status->code(), absl::StatusCode::kDeadlineExceeded);
}

TEST_P(ListenerTest, EndpointInUse) {
  Listen();
  const auto second = LinkListener::Listen(&loop_, listener_->endpoint(), tickets_.get(), {}, {});
  EXPECT_EQ(second.status().code(), absl::StatusCode::kAlreadyExists);
}

TEST_P(ListenerTest, PeerWithoutTicketIsDroppedAfterTwoSeconds) {
  Listen();
  const int fd = RawConnect();
  ASSERT_EQ(write(fd, "ATLL", 4), 4);
  const absl::Time begin = absl::Now();
  char byte;
  ASSERT_TRUE(PumpUntil(
      {&loop_}, [&] { return recv(fd, &byte, 1, MSG_DONTWAIT) == 0 || errno == ECONNRESET; }));
  EXPECT_GE(absl::Now() - begin, absl::Milliseconds(1900));
  EXPECT_TRUE(links_.empty());
  close(fd);
}

TEST_P(ListenerTest, NoMoreThan64WaitForTheirTicket) {
  Listen();
  std::vector<int> fds;
  for (int i = 0; i < 65; ++i) {
    fds.push_back(RawConnect());
    loop_.RunOnce(absl::ZeroDuration());
  }
  char byte;
  ASSERT_TRUE(PumpUntil({&loop_}, [&] { return recv(fds[0], &byte, 1, MSG_DONTWAIT) == 0; }))
      << "the oldest goes";
  for (size_t i = 1; i < fds.size(); ++i) {
    EXPECT_EQ(recv(fds[i], &byte, 1, MSG_DONTWAIT), -1) << i;
    EXPECT_EQ(errno, EAGAIN);
  }
  EXPECT_TRUE(Connect(tickets_->Issue("honest")).ok());
  for (int fd : fds) close(fd);
}

TEST_P(ListenerTest, GarbageInsteadOfAHelloIsRefused) {
  Listen();
  std::mt19937 rng(3);
  for (int i = 0; i < 8; ++i) {
    const int fd = RawConnect();
    std::string bytes(kHelloBytes, '\0');
    for (char& c : bytes) c = static_cast<char>(rng());
    ASSERT_EQ(send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL), bytes.size());
    HelloAnswerBytes answer;
    size_t got = 0;
    ASSERT_TRUE(PumpUntil({&loop_}, [&] {
      const ssize_t n = recv(fd, answer.data() + got, answer.size() - got, MSG_DONTWAIT);
      if (n > 0) got += n;
      return got == answer.size();
    }));
    EXPECT_EQ(DecodeHelloAnswer(answer).status().code(), absl::StatusCode::kInvalidArgument);
    close(fd);
  }
  EXPECT_TRUE(links_.empty());
}

TEST_P(ListenerTest, ListenerMayBeDestroyedInsideOnLink) {
  TicketBook tickets;
  std::unique_ptr<LinkListener> listener;
  std::unique_ptr<Link> accepted;
  listener = *LinkListener::Listen(&loop_, FreeEndpoint(GetParam()), &tickets, {},
                                   [&](const std::string&, std::unique_ptr<Link> link) {
                                     accepted = std::move(link);
                                     listener = nullptr;
                                   });
  bool connected = false;
  ConnectLink(&loop_, listener->endpoint(), tickets.Issue("x"), {}, absl::Seconds(10),
              [&](StatusOr<std::unique_ptr<Link>> link) { connected = link.ok(); });
  ASSERT_TRUE(PumpUntil({&loop_}, [&] { return connected; }));
  EXPECT_NE(accepted, nullptr);
}

TEST_P(SocketListenerTest, RawFrameIsUnderstood) {
  Listen();
  const int fd = RawPeer();
  SendFrame(fd, {.type = FrameType::kWork, .call_id = 9, .rows = 4}, "hello");
  ASSERT_TRUE(PumpUntil({&loop_}, [&] { return frames_.size() == 1; }));
  EXPECT_EQ(frames_[0].header.call_id, 9u);
  EXPECT_EQ(std::memcmp(frames_[0].payload.data(), "hello", 5), 0);
  close(fd);
  ASSERT_TRUE(PumpUntil({&loop_}, [&] { return end_.has_value(); }));
  EXPECT_EQ(end_->code(), absl::StatusCode::kUnavailable);
}

TEST_P(SocketListenerTest, FrameCutShortEndsWithThePeer) {
  Listen();
  const int fd = RawPeer();
  FrameHeader header = CallHeader(1);
  header.payload_bytes = 100;
  SendRaw(fd, header, "only this");
  shutdown(fd, SHUT_WR);
  ASSERT_TRUE(PumpUntil({&loop_}, [&] { return end_.has_value(); }));
  EXPECT_EQ(end_->code(), absl::StatusCode::kUnavailable);
  EXPECT_TRUE(frames_.empty());
  close(fd);
}

TEST_P(SocketListenerTest, BadFramesCloseTheLink) {
  const LinkLimits limits = {.window_bytes = 1 << 20, .queue_bytes = 1 << 20};
  const auto raw = [](int fd, const FrameHeader& header) { SendRaw(fd, header, ""); };
  const std::vector<std::pair<const char*, std::function<void(int)>>> cases = {
      {"magic", [&](int fd) { raw(fd, {.magic = 7}); }},
      {"larger than the window",
       [&](int fd) { raw(fd, {.type = FrameType::kWork, .payload_bytes = (1 << 20) + 1}); }},
      {"larger than any frame",
       [&](int fd) { raw(fd, {.type = FrameType::kWork, .payload_bytes = 0xffffffff}); }},
      {"a second hello",
       [&](int fd) { SendFrame(fd, {.type = FrameType::kHello}, std::string(16, 'x')); }},
      {"credit for what was not sent",
       [&](int fd) { raw(fd, {.type = FrameType::kCredit, .pairs = 1}); }},
  };
  for (const auto& [name, send_bad] : cases) {
    SCOPED_TRACE(name);
    end_.reset();
    links_.clear();
    frames_.clear();
    listener_ = nullptr;
    Listen(absl::Seconds(10), limits);
    const int fd = RawPeer();
    SendFrame(fd, CallHeader(1), "good");
    send_bad(fd);
    ASSERT_TRUE(PumpUntil({&loop_}, [&] { return end_.has_value(); }));
    EXPECT_EQ(end_->code(), absl::StatusCode::kInvalidArgument) << *end_;
    EXPECT_EQ(frames_.size(), 1u) << "what came before is told";
    close(fd);
  }
}

// Unix sockets do not alter bytes and carry no checksum of the payload.
TEST_P(TcpListenerTest, PayloadsAreCheckedByTheirCrc) {
  Listen();
  const int fd = RawPeer();
  SendRaw(fd, {.type = FrameType::kWork, .payload_bytes = 5, .payload_crc = 0x1234}, "hello");
  ASSERT_TRUE(PumpUntil({&loop_}, [&] { return end_.has_value(); }));
  EXPECT_EQ(end_->code(), absl::StatusCode::kDataLoss);
  EXPECT_TRUE(frames_.empty());
  close(fd);
}

TEST_P(SocketListenerTest, PeerThatIgnoresItsWindowIsCutOff) {
  Listen(absl::Seconds(10), {.window_bytes = 10'000, .queue_bytes = 1 << 20});
  const int fd = RawConnect();
  const HelloBytes hello = EncodeHello({.ticket = tickets_->Issue("raw"), .window_bytes = 1 << 20});
  ASSERT_EQ(write(fd, hello.data(), hello.size()), hello.size());
  ASSERT_TRUE(PumpUntil({&loop_}, [&] { return !links_.empty(); }));
  for (int i = 0; i < 4; ++i)
    SendFrame(fd, CallHeader(i), std::string(9'000, 'x'));  // nobody consumes
  bool closed = false;
  ASSERT_TRUE(PumpUntil({&loop_}, [&] {
    char bytes[64];
    const ssize_t n = recv(fd, bytes, sizeof(bytes), MSG_DONTWAIT);
    closed = n == 0 || (n < 0 && errno == ECONNRESET);
    return closed;
  }));
  close(fd);
}

TEST_P(ListenerTest, KilledPeerIsNoticed) {
  Listen();
  const Ticket ticket = tickets_->Issue("doomed");
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    EventLoop loop;
    std::unique_ptr<Link> link;
    ConnectLink(
        &loop, listener_->endpoint(), ticket, {}, absl::Seconds(10),
        [&](StatusOr<std::unique_ptr<Link>> made) {
          if (!made.ok()) _exit(3);
          link = *std::move(made);
          link->Send(CallHeader(42), Pattern(100'000, 42)).IgnoreError();  // the parent checks
        });
    for (;;) loop.RunOnce(absl::InfiniteDuration());
  }
  ASSERT_TRUE(PumpUntil({&loop_}, [&] { return !links_.empty(); }));
  links_[0]->SetCallbacks([&](Frame f) { frames_.push_back(std::move(f)); },
                          [&](Status s) { end_ = s; });
  ASSERT_TRUE(PumpUntil({&loop_}, [&] { return !frames_.empty(); }));
  EXPECT_TRUE(IsPattern(frames_[0].payload, 100'000, 42));
  EXPECT_FALSE(end_.has_value());
  kill(child, SIGKILL);
  ASSERT_TRUE(PumpUntil({&loop_}, [&] { return end_.has_value(); }));
  EXPECT_EQ(end_->code(), absl::StatusCode::kUnavailable);
  waitpid(child, nullptr, 0);
}

// Dies by SIGKILL while it writes as fast as it can: whole frames come, then the end.
TEST_P(ListenerTest, PeerKilledInTheMiddleOfAStream) {
  constexpr size_t kBytes = 150'000;
  Listen();
  const Ticket ticket = tickets_->Issue("doomed");
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    EventLoop loop;
    std::unique_ptr<Link> link;
    ConnectLink(&loop, listener_->endpoint(), ticket, {}, absl::Seconds(10),
                [&](StatusOr<std::unique_ptr<Link>> made) {
                  if (!made.ok()) _exit(3);
                  link = *std::move(made);
                });
    for (uint64_t i = 0;;) {
      loop.RunOnce(absl::ZeroDuration());
      if (link != nullptr && link->Send(CallHeader(i), Pattern(kBytes, i)).ok()) ++i;
    }
  }
  ASSERT_TRUE(PumpUntil({&loop_}, [&] { return !links_.empty(); }));
  uint64_t seen = 0;
  links_[0]->SetCallbacks(
      [&](Frame f) {
        EXPECT_EQ(f.header.call_id, seen);
        EXPECT_TRUE(IsPattern(f.payload, kBytes, seen));
        if (++seen == 200) kill(child, SIGKILL);
      },
      [&](Status s) { end_ = s; });
  ASSERT_TRUE(PumpUntil({&loop_}, [&] { return end_.has_value(); }));
  EXPECT_GE(seen, 200u);
  EXPECT_EQ(end_->code(), absl::StatusCode::kUnavailable) << *end_;
  waitpid(child, nullptr, 0);
}

// A write to a peer that is gone must not raise SIGPIPE, and on_closed comes from the loop.
TEST_P(SocketListenerTest, SendToADeadPeerIsUnavailableThenClosed) {
  Listen();
  const int fd = RawPeer();
  close(fd);
  Status status;
  for (int i = 0; i < 10 && status.ok(); ++i) {
    status = links_[0]->Send(CallHeader(i), Buffer(1000));
    EXPECT_FALSE(end_.has_value());
  }
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  ASSERT_TRUE(PumpUntil({&loop_}, [&] { return end_.has_value(); }));
}

TEST(UnixListenerTest, SocketFileIsPrivateReplacedWhenStaleAndRemoved) {
  const std::string path = absl::StrFormat("%s/atoll-%d.sock", testing::TempDir(), getpid());
  const Endpoint endpoint = {.kind = LinkKind::kUnix, .address = path};
  {  // what a killed process leaves behind
    const int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    const StatusOr<SocketAddress> address = ToSocketAddress(endpoint);
    ASSERT_EQ(bind(fd, address->get(), address->size), 0) << strerror(errno);
    close(fd);
  }
  EventLoop loop;
  TicketBook tickets;
  {
    const auto listener = LinkListener::Listen(&loop, endpoint, &tickets, {}, {});
    ASSERT_TRUE(listener.ok()) << listener.status();
    struct stat info;
    ASSERT_EQ(stat(path.c_str(), &info), 0);
    EXPECT_EQ(info.st_mode & 0777, 0600u);
    EXPECT_EQ(LinkListener::Listen(&loop, endpoint, &tickets, {}, {}).status().code(),
              absl::StatusCode::kAlreadyExists);
  }
  EXPECT_NE(access(path.c_str(), F_OK), 0);
}

TEST(ConnectLinkTest, HostNamesAndBadLimitsAreRefused) {
  EventLoop loop;
  std::vector<Status> ends;
  const auto done = [&](StatusOr<std::unique_ptr<Link>> link) { ends.push_back(link.status()); };
  ConnectLink(&loop, {.kind = LinkKind::kTcp, .address = "localhost:1"}, {}, {}, absl::Seconds(1),
              done);
  ConnectLink(&loop, {.kind = LinkKind::kUnix, .address = "@x"}, {}, {.window_bytes = 0},
              absl::Seconds(1), done);
  ASSERT_TRUE(PumpUntil({&loop}, [&] { return ends.size() == 2; }));
  for (const Status& status : ends)
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
}

}  // namespace
}  // namespace atl::transport
