#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <sstream>

#include "cli/commands.h"
#include "cli/request_flags.h"
#include "cli/server_loop.h"
#include "model/presets.h"
#include "text/tokenizer.h"

namespace atl::cli {
namespace {

struct TokenizeFlags {
  AddressFlags address;
  std::string model_dir, input;
  bool decode = false, special = false;
};

StatusOr<std::vector<uint32_t>> InputIds(const std::string& input) {
  std::vector<std::string> words;
  std::istringstream stream(input);
  for (std::string word; stream >> word;) words.push_back(word);
  ATL_ASSIGN_OR_RETURN(const auto ids, ParseTokenIds("--decode", words));
  return std::vector<uint32_t>(ids.ids().begin(), ids.ids().end());
}

// Ids that the model has: more than the tokenizer knows where the vocabulary is padded.
int64_t VocabularySize(const std::string& model_dir, const text::Tokenizer& tokenizer) {
  const auto config = model::ResolveModelConfig(model_dir);
  return std::max<int64_t>(tokenizer.vocab_size(), config.ok() ? config->vocab_size : 0);
}

Status CheckIds(const std::vector<uint32_t>& ids, int64_t vocab_size) {
  for (uint32_t id : ids) {
    if (id >= vocab_size)
      return InvalidArgument("--decode: expected ids below %d, found %d", vocab_size, id);
  }
  return absl::OkStatus();
}

StatusOr<std::string> Decode(const TokenizeFlags& values) {
  ATL_ASSIGN_OR_RETURN(const std::vector<uint32_t> ids, InputIds(values.input));
  if (!values.model_dir.empty()) {
    ATL_ASSIGN_OR_RETURN(const auto tokenizer, text::Tokenizer::Load(values.model_dir));
    ATL_RETURN_IF_ERROR(CheckIds(ids, VocabularySize(values.model_dir, *tokenizer)));
    return tokenizer->Decode(ids, !values.special);
  }
  ATL_ASSIGN_OR_RETURN(ApiClientOptions options, ToClientOptions(values.address));
  atollpb::v1::DetokenizeRequest request;
  request.mutable_token_ids()->Add(ids.begin(), ids.end());
  request.set_skip_special_tokens(!values.special);
  ATL_ASSIGN_OR_RETURN(const auto response, ApiClient(std::move(options)).Detokenize(request));
  return response.text();
}

StatusOr<std::string> Encode(const TokenizeFlags& values) {
  ATL_RETURN_IF_ERROR(CheckUtf8("input", values.input));
  std::vector<uint32_t> ids;
  if (!values.model_dir.empty()) {
    ATL_ASSIGN_OR_RETURN(const auto tokenizer, text::Tokenizer::Load(values.model_dir));
    ids = tokenizer->Encode(values.input, values.special);
  } else {
    ATL_ASSIGN_OR_RETURN(ApiClientOptions options, ToClientOptions(values.address));
    atollpb::v1::TokenizeRequest request;
    request.set_text(values.input);
    request.set_add_special_tokens(values.special);
    ATL_ASSIGN_OR_RETURN(const auto response, ApiClient(std::move(options)).Tokenize(request));
    ids.assign(response.token_ids().begin(), response.token_ids().end());
  }
  std::string line;
  for (uint32_t id : ids) absl::StrAppendFormat(&line, "%s%d", line.empty() ? "" : " ", id);
  return line;
}

}  // namespace

int RunTokenize(const std::string& command, int argc, char** argv) {
  TokenizeFlags values;
  FlagSet flags(command, "Turns text into token ids, or with --decode ids (\"5 17 2\") into text.");
  flags.AddPositional("input", &values.input, "text, or ids; - or nothing: from standard input");
  flags.Add("--model", &values.model_dir, "folder of a checkpoint; absent: ask the server");
  AddAddressFlags(&flags, &values.address);
  flags.AddSwitch("--decode", &values.decode, "ids into text");
  flags.AddSwitch("--special", &values.special,
                  "add special tokens in front; with --decode: show them");
  if (const auto code = flags.Parse(argc, argv)) return *code;
  if (values.input == "-" || (values.input.empty() && isatty(STDIN_FILENO) == 0))
    values.input = ReadStandardInput();
  const StatusOr<std::string> line = values.decode ? Decode(values) : Encode(values);
  if (!line.ok()) return Fail(command, line.status());
  std::printf("%s\n", line->c_str());
  return kExitOk;
}

}  // namespace atl::cli
