// What a model folder needs to know of a tokenizer without reading text: which files, how many ids.
#pragma once

#include <string>
#include <vector>

#include "base/status.h"
#include "model/config.h"

namespace atl::model {

// Names of the tokenizer's files that `dir` has. NotFound if tokenizer.json is not among them.
StatusOr<std::vector<std::string>> TokenizerFiles(const std::string& dir);

// Sets vocab_size to the ids that DIR/tokenizer.json has, rounded up to a multiple of 16, and the
// begin and end tokens to those of tokenizer_config.json (none if it names none). InvalidArgument
// if the files are not of HuggingFace's form.
Status FitConfigToTokenizer(const std::string& dir, ModelConfig* config);

}  // namespace atl::model
