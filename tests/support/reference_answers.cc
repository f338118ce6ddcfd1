#include "tests/support/reference_answers.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <utility>

#include "tests/support/golden.h"

namespace atl::testing {
namespace {

Starts Workload(const ThreadCluster& cluster) {
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

std::string ModelDir(const std::string& model) {
  return model == "demo" ? DemoModelDir() : GoldenCheckpointDir(model);
}

}  // namespace

ThreadClusterOptions Simplest(const std::string& model, const std::string& profile) {
  ThreadClusterOptions options;
  options.model_dir = ModelDir(model);
  options.profile = profile;
  options.threads = 1;
  options.dispatch = "inline";
  options.num_experts = 1;
  options.engine.prefix_cache = false;
  return options;
}

std::unique_ptr<ThreadCluster> StartOrDie(const ThreadClusterOptions& options) {
  auto cluster = ThreadCluster::Start(options);
  EXPECT_TRUE(cluster.ok()) << cluster.status();
  return cluster.ok() ? *std::move(cluster) : nullptr;
}

const Reference& ReferenceFor(const std::string& model, const std::string& profile) {
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

std::string Word(std::string name) {
  std::replace(name.begin(), name.end(), '+', '_');
  return name;
}

}  // namespace atl::testing
