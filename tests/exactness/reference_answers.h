// What the exactness tests ask, and the answers that every arrangement must give: those of the
// same requests alone, one after the other, by one expert node in one process.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "tests/support/generate.h"
#include "tests/support/golden.h"
#include "tests/support/thread_cluster.h"

namespace atl::testing {

using Starts = std::vector<atollpb::v1::RunStart>;

// What is asked: prompts of 1 to 150 tokens, greedy and sampled, with logprobs.
inline Starts Workload(const ThreadCluster& cluster) {
  const uint32_t vocab = static_cast<uint32_t>(cluster.checkpoint().config().vocab_size);
  Starts starts;
  int i = 0;
  for (const int length : {1, 7, 33, 64, 65, 150}) {
    std::vector<uint32_t> prompt(length);
    uint32_t x = 12345 + length;
    for (uint32_t& id : prompt) {
      x = x * 1664525 + 1013904223;
      id = (x >> 8) % vocab;
    }
    if (++i % 2 == 0) {
      starts.push_back(
          MakeSampledStart(cluster.checkpoint(), cluster.profile(), prompt, 12, 7 + length));
    } else {
      starts.push_back(MakeStart(cluster.checkpoint(), cluster.profile(), prompt, 12));
    }
  }
  return starts;
}

inline std::string ModelDir(const std::string& model) {
  return model == "demo" ? DemoModelDir() : GoldenCheckpointDir(model);
}

inline ThreadClusterOptions Simplest(const std::string& model, const std::string& profile) {
  ThreadClusterOptions options;
  options.model_dir = ModelDir(model);
  options.profile = profile;
  options.threads = 1;
  options.dispatch = "inline";
  options.num_experts = 1;
  options.engine.prefix_cache = false;
  return options;
}

inline std::unique_ptr<ThreadCluster> StartOrDie(const ThreadClusterOptions& options) {
  auto cluster = ThreadCluster::Start(options);
  EXPECT_TRUE(cluster.ok()) << cluster.status();
  return cluster.ok() ? *std::move(cluster) : nullptr;
}

struct Reference {
  Starts starts;
  std::vector<Answer> answers;
};

// Answers of the simplest arrangement, each request alone; made once for each model and profile.
inline const Reference& ReferenceFor(const std::string& model, const std::string& profile) {
  static auto* made = new std::map<std::string, Reference>();
  Reference& reference = (*made)[model + "/" + profile];
  if (reference.answers.empty()) {
    auto cluster = StartOrDie(Simplest(model, profile));
    reference.starts = Workload(*cluster);
    for (const auto& start : reference.starts) {
      reference.answers.push_back(RunOne(cluster->attention(0), start));
      EXPECT_TRUE(reference.answers.back().status.ok()) << reference.answers.back().status;
      EXPECT_EQ(reference.answers.back().ids.size(), 12);
    }
  }
  return reference;
}

// gtest's names have no plus sign.
inline std::string Word(std::string name) {
  std::replace(name.begin(), name.end(), '+', '_');
  return name;
}

}  // namespace atl::testing
