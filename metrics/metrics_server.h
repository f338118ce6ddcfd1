// Prometheus metrics of one process: read from its counters when they are asked for.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/status.h"
#include "metrics/histogram.h"

namespace atl::metrics {

// One metric family as of now. Names and units by Prometheus' conventions: "atoll_" first, base
// units, counters end in "_total".
struct Family {
  std::string name;
  std::string help;
  bool counter = false;  // else a gauge, or with a distribution a histogram
  struct Sample {
    std::vector<std::pair<std::string, std::string>> labels;
    double value = 0;
  };
  std::vector<Sample> samples;
  std::optional<Distribution> distribution;  // without samples
};

// Called for each scrape, on the server's own threads.
using Collect = std::function<std::vector<Family>()>;

// A family of one unlabelled sample.
Family Counter(std::string name, std::string help, double value);
Family Gauge(std::string name, std::string help, double value);
// A histogram: Prometheus adds _bucket, _sum and _count to its name.
Family DistributionOf(std::string name, std::string help, const Histogram& histogram);
// Puts `more` after `all`.
void Append(std::vector<Family> more, std::vector<Family>* all);

// Serves http://HOST:PORT/metrics until destroyed.
class MetricsServer {
 public:
  // `listen`: HOST:PORT, port 0 takes a free one. AlreadyExists: the port is in use.
  static StatusOr<std::unique_ptr<MetricsServer>> Start(const std::string& listen, Collect collect);
  virtual ~MetricsServer() = default;
  virtual const std::string& address() const = 0;  // HOST:PORT in fact listened on
};

}  // namespace atl::metrics
