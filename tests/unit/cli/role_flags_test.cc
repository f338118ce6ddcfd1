// What a supervisor passes on is what its children read: arguments made from options give the same
// options back.
#include "cli/role_flags.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace atl::cli {
namespace {

using ::testing::HasSubstr;

// Parses `arguments` into options made by `add`.
template <typename Options>
Options Reparse(const std::vector<std::string>& arguments,
                void (*add)(FlagSet*, Options*, ProcessFlags*), ProcessFlags* process) {
  Options options;
  FlagSet flags("atoll test", "");
  add(&flags, &options, process);
  std::vector<std::string> texts = arguments;
  texts.insert(texts.begin(), "atoll");
  std::vector<char*> argv;
  for (std::string& text : texts) argv.push_back(text.data());
  EXPECT_EQ(flags.Parse(argv.size(), argv.data()), std::nullopt);
  return options;
}

cluster::NodeOptions UnusualNode() {
  cluster::NodeOptions node;
  node.name = "router-7";
  node.model_dir = "some folder/model";
  node.profile = "reference";
  node.listen = "127.0.0.2:1";
  node.advertise = "host:2";
  node.join = {"a:1", "dns:b:2", "file:c"};
  node.links = {"tcp"};
  node.link_spin_us = 30;
  node.data_listen = "127.0.0.3:3";
  node.health_listen = "127.0.0.4:4";
  node.metrics_listen = "127.0.0.5:5";
  node.isa = "portable";
  node.threads = 3;
  node.zone = "z";
  node.insecure = true;
  node.coverage_timeout = absl::Milliseconds(1500);
  node.drain_timeout = absl::Seconds(7);
  return node;
}

void ExpectSame(const cluster::NodeOptions& a, const cluster::NodeOptions& b) {
  EXPECT_EQ(a.name, b.name);
  EXPECT_EQ(a.model_dir, b.model_dir);
  EXPECT_EQ(a.profile, b.profile);
  EXPECT_EQ(a.listen, b.listen);
  EXPECT_EQ(a.advertise, b.advertise);
  EXPECT_EQ(a.join, b.join);
  EXPECT_EQ(a.links, b.links);
  EXPECT_EQ(a.link_spin_us, b.link_spin_us);
  EXPECT_EQ(a.data_listen, b.data_listen);
  EXPECT_EQ(a.health_listen, b.health_listen);
  EXPECT_EQ(a.metrics_listen, b.metrics_listen);
  EXPECT_EQ(a.isa, b.isa);
  EXPECT_EQ(a.threads, b.threads);
  EXPECT_EQ(a.zone, b.zone);
  EXPECT_EQ(a.insecure, b.insecure);
  EXPECT_EQ(a.coverage_timeout, b.coverage_timeout);
  EXPECT_EQ(a.drain_timeout, b.drain_timeout);
}

TEST(RoleFlagsTest, RouterArgumentsGiveTheSameOptions) {
  router::RouterServerOptions options;
  options.node = UnusualNode();
  options.rank = 7;
  options.max_concurrent_requests = 11;
  options.max_queued_requests = 12;
  options.min_replicas = 2;
  options.context_length = 96;
  options.speculate = 2;
  options.settle = absl::Milliseconds(123);
  ProcessFlags process{.log_level = "debug"}, parsed_process;
  const auto parsed = Reparse(RouterArguments(options, process), AddRouterFlags, &parsed_process);
  ExpectSame(parsed.node, options.node);
  EXPECT_EQ(parsed.rank, 7);
  EXPECT_EQ(parsed.max_concurrent_requests, 11);
  EXPECT_EQ(parsed.max_queued_requests, 12);
  EXPECT_EQ(parsed.min_replicas, 2);
  EXPECT_EQ(parsed.context_length, 96);
  EXPECT_EQ(parsed.speculate, 2);
  EXPECT_EQ(parsed.settle, absl::Milliseconds(123));
  EXPECT_EQ(parsed_process.log_level, "debug");
}

TEST(RoleFlagsTest, AttentionArgumentsGiveTheSameOptions) {
  attention::AttentionServerOptions options;
  options.node = UnusualNode();
  options.dispatch = "inline";
  options.engine = {.cache_blocks = 5,
                    .cache_bytes = 12345,
                    .max_running = 6,
                    .max_waiting = 7,
                    .max_step_tokens = 8,
                    .prefill_chunk = 9,
                    .prefix_cache = false,
                    .micro_batches = 1,
                    .context_length = 99,
                    .speculate = 3};
  ProcessFlags process;
  const auto parsed = Reparse(AttentionArguments(options, process), AddAttentionFlags, &process);
  ExpectSame(parsed.node, options.node);
  EXPECT_EQ(parsed.dispatch, "inline");
  EXPECT_EQ(parsed.engine.cache_blocks, 5);
  EXPECT_EQ(parsed.engine.cache_bytes, 12345);
  EXPECT_EQ(parsed.engine.max_running, 6);
  EXPECT_EQ(parsed.engine.max_waiting, 7);
  EXPECT_EQ(parsed.engine.max_step_tokens, 8);
  EXPECT_EQ(parsed.engine.prefill_chunk, 9);
  EXPECT_FALSE(parsed.engine.prefix_cache);
  EXPECT_EQ(parsed.engine.micro_batches, 1);
  EXPECT_EQ(parsed.engine.context_length, 99);
  EXPECT_EQ(parsed.engine.speculate, 3);
}

TEST(RoleFlagsTest, ExpertArgumentsGiveTheSameOptions) {
  expert::ExpertServerOptions options;
  options.node = UnusualNode();
  options.memory_budget_bytes = 4321;
  options.merge = false;
  ProcessFlags process;
  const auto parsed = Reparse(ExpertArguments(options, process), AddExpertNodeFlags, &process);
  ExpectSame(parsed.node, options.node);
  EXPECT_EQ(parsed.memory_budget_bytes, 4321);
  EXPECT_FALSE(parsed.merge);
}

TEST(RoleFlagsTest, WrongNodeOptionsAreNamed) {
  struct Case {
    void (*spoil)(cluster::NodeOptions*);
    std::string expected;
  };
  for (const Case& c : {
           Case{[](auto* node) { node->model_dir = ""; }, "--model DIR is required"},
           Case{[](auto* node) { node->profile = "fp7"; }, "fp7"},
           Case{[](auto* node) { node->listen = "8470"; }, "--listen: "},
           Case{[](auto* node) { node->join = {"a:1", "file:"}; }, "--join: expected file:PATH"},
           Case{[](auto* node) { node->join = {"dns:name"}; }, "--join dns:"},
           Case{[](auto* node) { node->links = {"carrier-pigeon"}; }, "found \"carrier-pigeon\""},
           Case{[](auto* node) { node->link_spin_us = -2; }, "--link-spin-us"},
           Case{[](auto* node) { node->threads = -1; }, "--threads"},
           Case{[](auto* node) { node->threads = 100000; }, "--threads"},
       }) {
    cluster::NodeOptions node = UnusualNode();
    ASSERT_TRUE(CheckNodeOptions(node).ok());
    c.spoil(&node);
    const Status status = CheckNodeOptions(node);
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << c.expected;
    EXPECT_THAT(std::string(status.message()), HasSubstr(c.expected));
  }
}

}  // namespace
}  // namespace atl::cli
