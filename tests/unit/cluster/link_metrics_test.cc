#include "cluster/link_metrics.h"

#include <gtest/gtest.h>

#include <map>

namespace atl::cluster {
namespace {

using Labels = std::vector<std::pair<std::string, std::string>>;

TEST(LinkMetricsTest, LabelsArePeerRolesAndKinds) {
  transport::LinkCounters experts, attention;
  experts.of(transport::LinkKind::kTcp).sent_bytes = 100;
  experts.of(transport::LinkKind::kTcp).open = 2;
  attention.of(transport::LinkKind::kShm).received_frames = 7;
  attention.of(transport::LinkKind::kShm).deaths = 1;
  std::map<std::string, std::map<Labels, double>> found;
  for (const auto& family : LinkMetrics({{"expert", &experts}, {"attention", &attention}})) {
    EXPECT_EQ(family.counter, family.name.ends_with("_total")) << family.name;
    for (const auto& sample : family.samples) found[family.name][sample.labels] = sample.value;
  }
  const Labels expert_tcp = {{"peer", "expert"}, {"kind", "tcp"}};
  const Labels attention_shm = {{"peer", "attention"}, {"kind", "shm"}};
  EXPECT_EQ(found["atoll_link_sent_bytes_total"][expert_tcp], 100);
  EXPECT_EQ(found["atoll_links"][expert_tcp], 2);
  EXPECT_EQ(found["atoll_link_received_frames_total"][attention_shm], 7);
  EXPECT_EQ(found["atoll_link_deaths_total"][attention_shm], 1);
  EXPECT_EQ(found["atoll_link_deaths_total"][expert_tcp], 0);
  for (const auto& [name, samples] : found) EXPECT_EQ(samples.size(), 8u) << name;
}

}  // namespace
}  // namespace atl::cluster
