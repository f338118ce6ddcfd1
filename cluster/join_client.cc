#include "cluster/join_client.h"

#include <pthread.h>

#include <algorithm>
#include <set>
#include <utility>

#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "base/log.h"
#include "cluster/uptime.h"
#include "rpc/address.h"

namespace atl::cluster {
namespace {

constexpr absl::Duration kMinBackoff = absl::Milliseconds(50);
constexpr absl::Duration kMaxBackoff = absl::Milliseconds(500);
constexpr absl::Duration kRefusedBackoff = absl::Seconds(2);
constexpr absl::Duration kTwinRetry = absl::Seconds(10);  // another router may live there by then
constexpr absl::Duration kMinAnnounceGap = absl::Milliseconds(20);
constexpr absl::Duration kTick = absl::Milliseconds(20);  // where something is due soon
constexpr absl::Duration kIdle = absl::Milliseconds(100);
constexpr absl::Duration kForgetAfter = absl::Seconds(10);  // an address that nobody names any more
constexpr absl::Duration kAloneUnsaid = absl::Seconds(3);   // what a start in any order may take
constexpr absl::Duration kAloneRepeat = absl::Seconds(30);  // between two warnings of it
constexpr absl::Duration kLeaveTimeout = absl::Seconds(5);

bool SameNodes(const NodeList& a, const NodeList& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](const auto& x, const auto& y) {
    return x == y || x->SerializeAsString() == y->SerializeAsString();
  });
}

}  // namespace

StatusOr<std::unique_ptr<JoinClient>> JoinClient::Start(JoinOptions options) {
  ATL_ASSIGN_OR_RETURN(JoinSources sources, JoinSources::Parse(options.join));
  if (!sources.changes()) {
    for (const std::string& address : sources.Resolve()) {
      ATL_RETURN_IF_ERROR(rpc::CheckPlaintext("joining", address, options.insecure));
    }
  }
  auto client = std::unique_ptr<JoinClient>(new JoinClient(std::move(options), std::move(sources)));
  client->thread_ = std::thread([self = client.get()] { self->Run(); });
  if (client->sources_.changes())
    client->resolver_ = std::thread([self = client.get()] { self->ResolveForEver(); });
  return client;
}

JoinClient::JoinClient(JoinOptions options, JoinSources sources)
    : options_(std::move(options)), sources_(std::move(sources)) {
  if (!sources_.changes()) resolved_ = sources_.Resolve();
}

JoinClient::~JoinClient() {
  stop_.Notify();
  inbox_->Wake();
  thread_.join();
  if (resolver_.joinable()) resolver_.join();
}

void JoinClient::StateChanged() {
  {
    absl::MutexLock lock(&mu_);
    state_changed_ = true;
  }
  inbox_->Wake();
}

void JoinClient::AlsoJoin(std::vector<std::string> addresses) {
  {
    absl::MutexLock lock(&mu_);
    also_ = std::move(addresses);
  }
  inbox_->Wake();
}

NodeList JoinClient::nodes() const {
  absl::MutexLock lock(&mu_);
  return nodes_;
}

int JoinClient::num_routers() const {
  absl::MutexLock lock(&mu_);
  return num_routers_;
}

void JoinClient::ResolveForEver() {
  pthread_setname_np(pthread_self(), "join-resolve");
  do {
    std::vector<std::string> resolved = sources_.Resolve();
    absl::MutexLock lock(&mu_);
    resolved_ = std::move(resolved);
  } while (!stop_.WaitForNotificationWithTimeout(options_.resolve_interval));
}

void JoinClient::Run() {
  pthread_setname_np(pthread_self(), "join");
  next_warning_ = Uptime() + kAloneUnsaid;
  while (!stop_.HasBeenNotified()) {
    for (JoinInbox::Event& event : inbox_->Take(Tick())) Handle(std::move(event));
    TellViewIfChanged();
    RefreshSessions();
    OpenDueStreams();
    CancelSilentStreams();
    AnnounceIfDue();
    WarnIfAlone();
  }
  Leave();
}

absl::Duration JoinClient::Tick() {
  const auto connecting = [](const auto& entry) { return entry.second.stream == nullptr; };
  if (std::any_of(sessions_.begin(), sessions_.end(), connecting)) return kTick;
  absl::MutexLock lock(&mu_);
  return state_changed_ ? kTick : std::min(kIdle, options_.announce_interval);
}

void JoinClient::Leave() {
  for (auto& [address, session] : sessions_) {
    if (session.stream != nullptr) session.stream->Cancel();
  }
  const absl::Duration give_up = Uptime() + kLeaveTimeout;
  const auto open = [](const auto& entry) { return entry.second.stream != nullptr; };
  while (std::any_of(sessions_.begin(), sessions_.end(), open) && Uptime() < give_up) {
    for (JoinInbox::Event& event : inbox_->Take(kTick)) {
      for (auto& [address, session] : sessions_) {
        if (session.stream == nullptr || session.stream_id != event.stream_id) continue;
        if (event.end.has_value()) {
          session.stream = nullptr;
        } else {
          session.stream->ReadNext();
        }
      }
    }
  }
}

void JoinClient::Handle(JoinInbox::Event event) {
  const auto it = std::find_if(sessions_.begin(), sessions_.end(), [&event](const auto& entry) {
    return entry.second.stream_id == event.stream_id;
  });
  if (it == sessions_.end() || it->second.stream == nullptr) return;
  Session& session = it->second;
  if (event.end.has_value()) return OnEnd(session, *event.end);
  session.last_message = Uptime();
  session.stream->ReadNext();
  if (event.message.has_view()) OnView(session, event.message.view());
  if (event.message.has_command()) OnCommand(event.message.command());
}

void JoinClient::OnView(Session& session, const pb::ClusterView& view) {
  if (!session.answers) LogInfo("joined router '%s' at %s", view.router(), session.address);
  session.router = view.router();
  session.answers = true;
  session.backoff = absl::ZeroDuration();
  session.last_error.clear();
  session.view_order = next_order_++;
  session.view.clear();
  for (const pb::Announcement& node : view.nodes()) {
    session.view.push_back(std::make_shared<const pb::Announcement>(node));
    first_seen_.try_emplace({node.info().name(), node.info().incarnation()}, next_order_++);
  }
  views_changed_ = true;
  if (HasTwin(session)) session.stream->Cancel();
}

bool JoinClient::HasTwin(const Session& session) const {
  return !session.router.empty() &&
         std::any_of(sessions_.begin(), sessions_.end(), [&session](const auto& entry) {
           const Session& other = entry.second;
           return &other != &session && other.stream != nullptr && other.answers &&
                  other.router == session.router;
         });
}

void JoinClient::OnEnd(Session& session, const Status& status) {
  const bool refused = absl::IsFailedPrecondition(status) || absl::IsInvalidArgument(status) ||
                       absl::IsAlreadyExists(status);
  if (refused && session.last_error != status.message()) {
    LogError("router at %s refuses this node: %s", session.address, status.ToString());
  } else if (session.answers && !HasTwin(session)) {
    LogWarning("lost router '%s' at %s: %s", session.router, session.address, status.ToString());
  } else if (session.last_error != status.message()) {
    LogDebug("no router at %s: %s", session.address, status.ToString());
  }
  if (HasTwin(session)) {
    session.twin_until = Uptime() + kTwinRetry;
  } else {
    session.router.clear();
  }
  session.last_error = std::string(status.message());
  session.stream = nullptr;
  session.backoff =
      refused ? kRefusedBackoff : std::clamp(session.backoff * 2, kMinBackoff, kMaxBackoff);
  session.next_try = Uptime() + session.backoff;
  session.answers = false;
  session.view.clear();
  views_changed_ = true;
}

void JoinClient::OnCommand(const pb::ExpertCommand& command) {
  std::pair<uint64_t, std::string> from(command.term(), command.planner());
  const bool newer = from.first > obeyed_.first;
  const bool first_of_term =
      from.first == obeyed_.first && (obeyed_.second.empty() || from.second <= obeyed_.second);
  if (!newer && !first_of_term) {
    LogDebug("command of term %d by '%s' passed over: obeying term %d by '%s'", from.first,
             from.second, obeyed_.first, obeyed_.second);
    return;
  }
  obeyed_ = std::move(from);
  if (options_.on_command) options_.on_command(command);
}

void JoinClient::RefreshSessions() {
  std::set<std::string> named;
  {
    absl::MutexLock lock(&mu_);
    named.insert(resolved_.begin(), resolved_.end());
    named.insert(also_.begin(), also_.end());
    for (const auto& node : nodes_) {
      if (node->info().role() == pb::NODE_ROLE_ROUTER &&
          node->info().name() != options_.self.name()) {
        named.insert(node->info().grpc_address());
      }
    }
  }
  named.erase(options_.self.grpc_address());
  for (const std::string& address : named) {
    Session& session = sessions_[address];
    session.address = address;
    session.last_named = Uptime();
  }
  for (auto it = sessions_.begin(); it != sessions_.end();) {
    const Session& session = it->second;
    const bool forget = session.stream == nullptr && Uptime() - session.last_named > kForgetAfter;
    it = forget ? sessions_.erase(it) : std::next(it);
  }
}

void JoinClient::OpenDueStreams() {
  for (auto& [address, session] : sessions_) {
    if (session.stream != nullptr || Uptime() < session.next_try) continue;
    if (HasTwin(session) && Uptime() < session.twin_until) continue;
    const Status allowed = rpc::CheckPlaintext("joining", address, options_.insecure);
    if (!allowed.ok()) {
      if (session.last_error != allowed.message()) LogError("%s", std::string(allowed.message()));
      session.last_error = std::string(allowed.message());
      session.next_try = Uptime() + kRefusedBackoff;
      continue;
    }
    session.stream_id = next_stream_id_++;
    session.last_message = Uptime();
    session.stream = JoinStream::Open(session.stream_id, address, inbox_);
    pb::Announcement announcement;
    *announcement.mutable_info() = options_.self;
    *announcement.mutable_state() = options_.state();
    session.stream->Announce(announcement);
  }
}

void JoinClient::CancelSilentStreams() {
  for (auto& [address, session] : sessions_) {
    if (session.stream != nullptr && Uptime() - session.last_message > options_.silence)
      session.stream->Cancel();
  }
}

void JoinClient::AnnounceIfDue() {
  const absl::Duration gap = Uptime() - last_announced_;
  {
    absl::MutexLock lock(&mu_);
    if (gap < (state_changed_ ? kMinAnnounceGap : options_.announce_interval)) return;
    state_changed_ = false;
  }
  last_announced_ = Uptime();
  pb::Announcement announcement;
  *announcement.mutable_info() = options_.self;
  *announcement.mutable_state() = options_.state();
  for (auto& [address, session] : sessions_) {
    if (session.stream != nullptr) session.stream->Announce(announcement);
  }
}

// A router may well be alone.
void JoinClient::WarnIfAlone() {
  const auto answers = [](const auto& entry) { return entry.second.answers; };
  if (options_.self.role() == pb::NODE_ROLE_ROUTER ||
      std::any_of(sessions_.begin(), sessions_.end(), answers)) {
    next_warning_ = Uptime() + kAloneUnsaid;
    return;
  }
  if (Uptime() < next_warning_) return;
  next_warning_ = Uptime() + kAloneRepeat;
  std::vector<std::string> tried;
  for (const auto& [address, session] : sessions_) {
    tried.push_back(session.last_error.empty()
                        ? address
                        : absl::StrFormat("%s (%s)", address, session.last_error));
  }
  LogWarning("no router answers; this node goes on trying %s: %s",
             absl::StrJoin(options_.join, ","),
             tried.empty() ? "nothing was found there" : absl::StrJoin(tried, ", "));
}

// Of two incarnations of a name the one that was seen first later is the live one; of its states,
// the last that came.
NodeList JoinClient::Merge() {
  struct Choice {
    std::pair<uint64_t, uint64_t> order;
    std::shared_ptr<const pb::Announcement> node;
  };
  std::map<std::string, Choice> chosen;
  std::set<std::pair<std::string, uint64_t>> listed;
  for (const auto& [address, session] : sessions_) {
    for (const auto& node : session.view) {
      const std::pair<std::string, uint64_t> identity(node->info().name(),
                                                      node->info().incarnation());
      listed.insert(identity);
      Choice& choice = chosen[node->info().name()];
      const std::pair<uint64_t, uint64_t> order(first_seen_[identity], session.view_order);
      if (choice.node == nullptr || order > choice.order) choice = {order, node};
    }
  }
  std::erase_if(first_seen_,
                [&listed](const auto& entry) { return !listed.contains(entry.first); });
  NodeList nodes;
  for (auto& [name, choice] : chosen) nodes.push_back(std::move(choice.node));
  return nodes;
}

void JoinClient::TellViewIfChanged() {
  if (!std::exchange(views_changed_, false)) return;
  NodeList nodes = Merge();
  bool changed;
  {
    absl::MutexLock lock(&mu_);
    changed = !SameNodes(nodes, nodes_);
    nodes_ = nodes;
    num_routers_ =
        static_cast<int>(std::count_if(sessions_.begin(), sessions_.end(),
                                       [](const auto& entry) { return entry.second.answers; }));
  }
  if (changed && options_.on_view) options_.on_view(nodes);
}

}  // namespace atl::cluster
