#include "cluster/view.h"

#include <utility>

namespace atl::cluster {
namespace {

// What others act on at once, as bytes; the rest is load.
std::string Structure(const pb::Announcement& announcement) {
  pb::Announcement copy;
  *copy.mutable_info() = announcement.info();
  pb::NodeState* state = copy.mutable_state();
  state->set_draining(announcement.state().draining());
  *state->mutable_holds() = announcement.state().holds();
  state->set_term(announcement.state().term());
  state->set_ready(announcement.state().ready());
  return copy.SerializeAsString();
}

std::shared_ptr<const ClusterSnapshot> MakeSnapshot(
    uint64_t version, const std::map<std::string, std::shared_ptr<const pb::Announcement>>& nodes) {
  auto snapshot = std::make_shared<ClusterSnapshot>();
  snapshot->version = version;
  for (const auto& [name, node] : nodes) snapshot->nodes.push_back(node);
  return snapshot;
}

}  // namespace

void ClusterState::AddListener(Listener listener) { listeners_.push_back(std::move(listener)); }

Status ClusterState::Announce(const pb::Announcement& announcement) {
  auto added = std::make_shared<const pb::Announcement>(announcement);
  const std::string structure = Structure(announcement);
  const std::string bytes = announcement.SerializeAsString();
  ViewChange change = ViewChange::kStructure;
  {
    absl::MutexLock lock(&mu_);
    auto& node = nodes_[announcement.info().name()];
    if (node != nullptr) {
      if (node->info().incarnation() != announcement.info().incarnation()) {
        return AlreadyExists("node '%s' lives as incarnation %x; this is incarnation %x",
                             announcement.info().name(), node->info().incarnation(),
                             announcement.info().incarnation());
      }
      if (node->SerializeAsString() == bytes) return absl::OkStatus();
      if (Structure(*node) == structure) change = ViewChange::kLoad;
    }
    node = std::move(added);
    snapshot_ = MakeSnapshot(snapshot_->version + 1, nodes_);
  }
  Notify(change);
  return absl::OkStatus();
}

void ClusterState::Remove(const std::string& name, uint64_t incarnation) {
  {
    absl::MutexLock lock(&mu_);
    const auto it = nodes_.find(name);
    if (it == nodes_.end() || it->second->info().incarnation() != incarnation) return;
    nodes_.erase(it);
    snapshot_ = MakeSnapshot(snapshot_->version + 1, nodes_);
  }
  Notify(ViewChange::kStructure);
}

std::shared_ptr<const ClusterSnapshot> ClusterState::snapshot() const {
  absl::MutexLock lock(&mu_);
  return snapshot_;
}

void ClusterState::Notify(ViewChange change) {
  for (const Listener& listener : listeners_) listener(change);
}

}  // namespace atl::cluster
