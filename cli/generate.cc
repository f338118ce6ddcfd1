#include <google/protobuf/util/json_util.h>
#include <unistd.h>

#include <cstdio>
#include <string>

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

struct GenerateFlags {
  AddressFlags address;
  SamplingFlags sampling;
  std::string prompt, system, model_name, request_id;
  std::vector<std::string> token_ids, resume_from;
  std::optional<uint32_t> logprobs, prompt_logprobs;
  std::optional<uint64_t> bias_version;
  bool chat = false, unary = false, json = false, ids = false, verbose = false;
};

void AddFlags(FlagSet* flags, GenerateFlags* values) {
  flags->AddPositional("prompt", &values->prompt, "the prompt; - or nothing: from standard input");
  AddAddressFlags(flags, &values->address);
  flags->AddSwitch("--chat", &values->chat, "the prompt is a user's message, not text to continue");
  flags->Add("--system", &values->system, "system message, with --chat");
  flags->Add("--token-ids", &values->token_ids, "token ids as prompt, used exactly as given");
  AddSamplingFlags(flags, &values->sampling);
  flags->Add("--logprobs", &values->logprobs,
             "log-probabilities with this many alternatives (0 to 20), with --json");
  flags->Add("--prompt-logprobs", &values->prompt_logprobs, "the same of the prompt's tokens");
  flags->Add("--model-name", &values->model_name, "refuse to be answered by another model");
  flags->Add("--request-id", &values->request_id, "name of the request in logs");
  flags->Add("--resume-from", &values->resume_from, "token ids of an answer that broke off");
  flags->Add("--bias-version", &values->bias_version, "with --resume-from: as told then");
  flags->AddSwitch("--unary", &values->unary, "wait for the whole answer instead of streaming");
  flags->AddSwitch("--json", &values->json, "print the whole answer as JSON");
  flags->AddSwitch("--ids", &values->ids, "print token ids instead of text");
  flags->AddSwitch("--verbose", &values->verbose,
                   "say how fast it was and who computed what; with --json on stderr");
}

// Flags that would be left unused beside others, or could not be sent.
Status CheckFlags(const GenerateFlags& values) {
  if (!values.token_ids.empty() && !values.prompt.empty()) {
    return InvalidArgument("--token-ids: expected no prompt beside them, found \"%s\"",
                           values.prompt);
  }
  if (!values.token_ids.empty() && values.chat)
    return InvalidArgument("--token-ids: expected no --chat, for ids are used as given");
  if (!values.system.empty() && !values.chat)
    return InvalidArgument("--system: expected --chat beside it");
  if ((values.logprobs || values.prompt_logprobs) && !values.json)
    return InvalidArgument("--logprobs, --prompt-logprobs: expected --json, which shows them");
  ATL_RETURN_IF_ERROR(CheckUtf8("--system", values.system));
  ATL_RETURN_IF_ERROR(CheckUtf8("--model-name", values.model_name));
  return CheckUtf8("--request-id", values.request_id);
}

StatusOr<GenerateRequest> MakeRequest(const GenerateFlags& values) {
  ATL_RETURN_IF_ERROR(CheckFlags(values));
  GenerateRequest request;
  if (!values.token_ids.empty()) {
    ATL_ASSIGN_OR_RETURN(*request.mutable_token_ids(),
                         ParseTokenIds("--token-ids", values.token_ids));
  } else {
    const bool from_input =
        values.prompt == "-" || (values.prompt.empty() && isatty(STDIN_FILENO) == 0);
    const std::string prompt = from_input ? ReadStandardInput() : values.prompt;
    ATL_RETURN_IF_ERROR(CheckUtf8("prompt", prompt));
    if (values.chat) {
      if (!values.system.empty()) {
        auto* system = request.mutable_messages()->add_messages();
        system->set_role("system");
        system->set_content(values.system);
      }
      auto* user = request.mutable_messages()->add_messages();
      user->set_role("user");
      user->set_content(prompt);
    } else {
      request.set_text(prompt);
    }
  }
  ATL_RETURN_IF_ERROR(ApplySampling(values.sampling, &request));
  if (values.logprobs) request.set_logprobs(*values.logprobs);
  if (values.prompt_logprobs) request.set_prompt_logprobs(*values.prompt_logprobs);
  if (!values.resume_from.empty()) {
    ATL_ASSIGN_OR_RETURN(*request.mutable_resume_from(),
                         ParseTokenIds("--resume-from", values.resume_from));
  }
  if (values.bias_version) request.set_bias_version(*values.bias_version);
  request.set_model(values.model_name);
  request.set_request_id(values.request_id);
  return request;
}

void PrintJson(const GenerateResponse& answer) {
  google::protobuf::util::JsonPrintOptions options;
  options.preserve_proto_field_names = true;
  std::string json;
  const auto status = google::protobuf::util::MessageToJsonString(answer, &json, options);
  std::printf("%s\n", status.ok() ? json.c_str() : status.ToString().c_str());
}

template <typename Message>
void PrintPart(const Message& message, bool ids) {
  if (ids) {
    for (uint32_t id : message.token_ids()) std::printf("%u ", id);
  } else {
    std::fwrite(message.text().data(), 1, message.text().size(), stdout);
  }
}

// `printed`: something of the answer is on stdout.
StatusOr<GenerateResponse> Ask(ApiClient* client, const GenerateRequest& request,
                               const GenerateFlags& values, bool* printed) {
  if (!values.unary) {
    return client->Stream(request, [&](const GenerateStreamResponse& message) {
      if (values.json) return;
      PrintPart(message, values.ids);
      *printed |= message.token_ids_size() > 0 || !message.text().empty();
      if (!FlushOutput().ok()) client->Cancel();  // nobody reads the rest
    });
  }
  StatusOr<GenerateResponse> answer = client->Generate(request);
  if (answer.ok() && !values.json) PrintPart(*answer, values.ids);
  return answer;
}

void PrintEnd(const GenerateResponse& answer, const GenerateFlags& values) {
  if (values.json) return PrintJson(answer);
  const bool no_text = !values.ids && answer.text().empty() && answer.token_ids_size() > 1;
  if (no_text) PrintPart(answer, /*ids=*/true);  // a checkpoint without a tokenizer
  std::printf("\n");
}

}  // namespace

int RunGenerate(const std::string& command, int argc, char** argv) {
  GenerateFlags values;
  FlagSet flags(command, "Sends one prompt to a server and prints the answer as it comes.");
  AddFlags(&flags, &values);
  if (const auto code = flags.Parse(argc, argv)) return *code;
  StatusOr<ApiClientOptions> options = ToClientOptions(values.address);
  if (!options.ok()) return flags.Mistake(std::string(options.status().message()));
  const StatusOr<GenerateRequest> request = MakeRequest(values);
  if (!request.ok()) return flags.Mistake(std::string(request.status().message()));

  InterruptWatch::Block();
  if (values.verbose || isatty(STDERR_FILENO) != 0) options->on_retry = RetryNotice(command);
  ApiClient client(*options);
  InterruptWatch interrupts([&] { client.Cancel(); });
  const WorkSnapshot before = values.verbose ? TakeWorkSnapshot(client.channel()) : WorkSnapshot();
  bool printed = false;
  const StatusOr<GenerateResponse> answer = Ask(&client, *request, values, &printed);
  if (!answer.ok()) {
    if (printed) std::printf("\n");
    if (absl::IsCancelled(answer.status())) return kExitInterrupted;
    return Fail(command, answer.status());
  }
  PrintEnd(*answer, values);
  if (values.verbose) {
    const WorkSnapshot after = TakeWorkSnapshot(client.channel());
    std::fprintf(values.json ? stderr : stdout, "%s\n%s\n", DescribeSpeed(*answer).c_str(),
                 DescribeWork(before, after).c_str());
  }
  return kExitOk;
}

}  // namespace atl::cli
