#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <cstdio>
#include <optional>
#include <string>

#include "base/check.h"
#include "cli/commands.h"
#include "cli/interrupt_watch.h"
#include "cli/output.h"
#include "cli/request_flags.h"
#include "cli/server_loop.h"
#include "cli/work_report.h"

namespace atl::cli {
namespace {

using atollpb::v1::GenerateRequest;
using atollpb::v1::GenerateResponse;
using atollpb::v1::GenerateStreamResponse;

// Lines of standard input, and Ctrl-C while waiting for one.
class LineReader {
 public:
  LineReader() : interrupt_fd_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
    ATL_CHECK(interrupt_fd_ >= 0);
  }
  ~LineReader() { close(interrupt_fd_); }

  enum class Outcome { kLine, kEnd, kInterrupted };
  Outcome Next(std::string* line) {
    while (true) {
      const size_t end = pending_.find('\n');
      if (end != std::string::npos || (ended_ && !pending_.empty())) {
        *line = pending_.substr(0, end);
        pending_.erase(0, end == std::string::npos ? end : end + 1);
        return Outcome::kLine;
      }
      if (ended_) return Outcome::kEnd;
      pollfd fds[] = {{STDIN_FILENO, POLLIN, 0}, {interrupt_fd_, POLLIN, 0}};
      poll(fds, 2, -1);  // a person may take as long as it takes
      if (fds[1].revents != 0) return Outcome::kInterrupted;
      char bytes[4096];
      const ssize_t size = read(STDIN_FILENO, bytes, sizeof bytes);
      if (size > 0) pending_.append(bytes, size);
      if (size <= 0) ended_ = true;
    }
  }
  void Interrupt() {
    const uint64_t one = 1;
    if (write(interrupt_fd_, &one, sizeof one) < 0) return;  // already told
  }

 private:
  const int interrupt_fd_;
  std::string pending_;
  bool ended_ = false;
};

struct ChatFlags {
  AddressFlags address;
  SamplingFlags sampling;
  std::string system;
  bool verbose = false;
};

// The conversation and what is shown of it.
class Chat {
 public:
  Chat(const ChatFlags& values, GenerateRequest base, ApiClient* client)
      : verbose_(values.verbose), client_(client), base_(std::move(base)), request_(base_) {
    if (!values.system.empty()) AddMessage(&base_, "system", values.system);
    request_ = base_;
  }

  // Asks; prints the answer as it comes. An answer that was cut short stays in the conversation as
  // far as it came.
  Status Ask(const std::string& question) {
    ATL_RETURN_IF_ERROR(CheckUtf8("line", question));
    const int num_before = request_.messages().messages_size();
    AddMessage(&request_, "user", question);
    const WorkSnapshot before = verbose_ ? TakeWorkSnapshot(client_->channel()) : WorkSnapshot();
    std::string text;
    const StatusOr<GenerateResponse> answer =
        client_->Stream(request_, [&](const GenerateStreamResponse& message) {
          std::fwrite(message.text().data(), 1, message.text().size(), stdout);
          text += message.text();
          if (!FlushOutput().ok()) client_->Cancel();  // nobody reads the rest
        });
    if (answer.ok() || !text.empty()) std::printf("\n");
    if (answer.ok() || absl::IsCancelled(answer.status())) {
      AddMessage(&request_, "assistant", text);
      if (answer.ok() && verbose_) {
        const WorkSnapshot after = TakeWorkSnapshot(client_->channel());
        std::printf("[%s; %s]\n", DescribeSpeed(*answer).c_str(),
                    DescribeWork(before, after).c_str());
      }
      return absl::OkStatus();
    }
    auto* messages = request_.mutable_messages()->mutable_messages();
    messages->DeleteSubrange(num_before, messages->size() - num_before);
    const bool too_long =
        absl::IsInvalidArgument(answer.status()) && num_before > base_.messages().messages_size();
    if (!too_long) return answer.status();
    return InvalidArgument("%s (/new begins a new conversation)",
                           std::string(answer.status().message()));
  }

  void Restart() { request_ = base_; }

 private:
  static void AddMessage(GenerateRequest* request, const std::string& role,
                         const std::string& content) {
    auto* message = request->mutable_messages()->add_messages();
    message->set_role(role);
    message->set_content(content);
  }

  const bool verbose_;
  ApiClient* const client_;
  GenerateRequest base_;     // flags and system message
  GenerateRequest request_;  // with the turns so far
};

constexpr char kHelp[] =
    "Ctrl-C ends an answer, Ctrl-D or /quit the chat, /new begins a new conversation, /help says "
    "this.";

// Ctrl-C ends an answer; at the prompt it ends the chat.
int Converse(const std::string& command, ApiClient* client, Chat* chat) {
  const bool interactive = isatty(STDIN_FILENO) != 0;
  LineReader reader;
  std::atomic<bool> answering = false;
  InterruptWatch interrupts([&] {
    if (answering) {
      client->Cancel();
    } else {
      reader.Interrupt();
    }
  });
  int code = kExitOk;
  while (true) {
    if (interactive) std::printf("> ");
    if (!FlushOutput().ok()) return kExitFailure;
    std::string line;
    const LineReader::Outcome outcome = reader.Next(&line);
    if (outcome != LineReader::Outcome::kLine) {
      if (interactive) std::printf("\n");
      return outcome == LineReader::Outcome::kInterrupted ? kExitInterrupted : code;
    }
    if (line.empty()) continue;
    if (line == "/quit") return code;
    if (line == "/help") std::printf("%s\n", kHelp);
    if (line == "/new") chat->Restart();
    if (line == "/help" || line == "/new") continue;
    answering = true;
    const Status asked = chat->Ask(line);
    answering = false;
    if (!asked.ok()) code = Fail(command, asked);
  }
}

}  // namespace

int RunChat(const std::string& command, int argc, char** argv) {
  ChatFlags values;
  FlagSet flags(command,
                std::string("Talks with the model a server has: one line, one answer. ") + kHelp);
  AddAddressFlags(&flags, &values.address);
  flags.Add("--system", &values.system, "system message that every conversation begins with");
  AddSamplingFlags(&flags, &values.sampling);
  flags.AddSwitch("--verbose", &values.verbose,
                  "after each answer: how fast it was and who computed what");
  if (const auto code = flags.Parse(argc, argv)) return *code;
  StatusOr<ApiClientOptions> options = ToClientOptions(values.address);
  if (!options.ok()) return flags.Mistake(std::string(options.status().message()));
  GenerateRequest base;
  Status applied = ApplySampling(values.sampling, &base);
  applied.Update(CheckUtf8("--system", values.system));
  if (!applied.ok()) return flags.Mistake(std::string(applied.message()));

  InterruptWatch::Block();
  if (values.verbose || isatty(STDERR_FILENO) != 0) options->on_retry = RetryNotice(command);
  ApiClient client(*options);
  const auto model = client.GetModel();
  if (!model.ok()) return Fail(command, model.status());
  if (isatty(STDIN_FILENO) != 0) {
    std::printf("%s (%s, profile %s) at %s. %s\n", model->name().c_str(),
                model->architecture().c_str(), model->numeric_profile().c_str(),
                client.address().c_str(), kHelp);
  }
  Chat chat(values, std::move(base), &client);
  return Converse(command, &client, &chat);
}

}  // namespace atl::cli
