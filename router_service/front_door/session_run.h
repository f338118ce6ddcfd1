// One placement of a session's sequence at an attention node.
#pragma once

#include <cstdint>
#include <memory>
#include <utility>

#include "router_service/front_door/session.h"

namespace atl::front_door {

// Hands what a run says to its session, with the run's number: what a run says after the session
// has left it is dropped.
class Session::Observer : public attention::RunObserver {
 public:
  Observer(std::weak_ptr<Session> session, uint32_t run_number)
      : session_(std::move(session)), run_number_(run_number) {}

  void OnResponse(atollpb::v1::RunResponse response) override {
    const auto session = session_.lock();
    if (session == nullptr) return;
    auto shared = std::make_shared<atollpb::v1::RunResponse>(std::move(response));
    session->Enqueue([s = session.get(), number = run_number_, shared] {
      s->OnRunResponse(number, shared.get());
    });
  }

  void OnDone(const Status& status) override {
    const auto session = session_.lock();
    if (session == nullptr) return;
    session->Enqueue(
        [s = session.get(), number = run_number_, status] { s->OnRunDone(number, status); });
  }

 private:
  const std::weak_ptr<Session> session_;
  const uint32_t run_number_;
};

struct Session::ActiveRun {
  ActiveRun(std::weak_ptr<Session> session, uint32_t run_number, AttentionNode at, absl::Time now)
      : number(run_number),
        node(std::move(at)),
        last_progress(now),
        observer(std::move(session), run_number) {}

  const uint32_t number;
  const AttentionNode node;
  absl::Time last_progress;  // its last answer, or its start
  absl::Duration patience;   // for the next one
  Observer observer;
  std::unique_ptr<attention::Run> run;  // goes first: the observer must outlive it
};

}  // namespace atl::front_door
