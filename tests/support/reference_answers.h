// What the exactness tests ask, and the answers that every arrangement must give: those of the
// same requests alone, one after the other, by one expert node in one process.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "tests/support/generate.h"
#include "tests/support/thread_cluster.h"

namespace atl::testing {

using Starts = std::vector<atollpb::v1::RunStart>;

// One process, one expert node, one thread, no prefix cache. model: "demo" or a golden preset.
ThreadClusterOptions Simplest(const std::string& model, const std::string& profile);

// Null, with a failure of the test, if it does not start.
std::unique_ptr<ThreadCluster> StartOrDie(const ThreadClusterOptions& options);

struct Reference {
  Starts starts;  // prompts of 1 to 150 tokens, greedy and sampled, with logprobs
  std::vector<Answer> answers;
};

// Answers of the simplest arrangement, each request alone; made once for each model and profile.
const Reference& ReferenceFor(const std::string& model, const std::string& profile);

// As part of a test's name, which has no plus sign.
std::string Word(std::string name);

}  // namespace atl::testing
