#include "metrics/metrics_server.h"

#include <prometheus/collectable.h>
#include <prometheus/exposer.h>
#include <prometheus/metric_family.h>

#include <exception>

#include "absl/strings/str_format.h"

namespace atl::metrics {
namespace {

class Collector : public prometheus::Collectable {
 public:
  explicit Collector(metrics::Collect collect) : collect_(std::move(collect)) {}

  std::vector<prometheus::MetricFamily> Collect() const override {
    std::vector<prometheus::MetricFamily> families;
    for (const Family& family : collect_()) families.push_back(Convert(family));
    return families;
  }

 private:
  static prometheus::MetricFamily Convert(const Family& family) {
    prometheus::MetricFamily out;
    out.name = family.name;
    out.help = family.help;
    out.type = family.counter ? prometheus::MetricType::Counter : prometheus::MetricType::Gauge;
    for (const Family::Sample& sample : family.samples) {
      prometheus::ClientMetric metric;
      for (const auto& [name, value] : sample.labels) metric.label.push_back({name, value});
      (family.counter ? metric.counter.value : metric.gauge.value) = sample.value;
      out.metric.push_back(std::move(metric));
    }
    return out;
  }

  const metrics::Collect collect_;
};

class MetricsServerImpl : public MetricsServer {
 public:
  MetricsServerImpl(const std::string& listen, metrics::Collect collect)
      : collector_(std::make_shared<Collector>(std::move(collect))),
        exposer_(listen, /*num_threads=*/1) {
    exposer_.RegisterCollectable(collector_);
    const std::vector<int> ports = exposer_.GetListeningPorts();
    address_ = absl::StrFormat("%s:%d", listen.substr(0, listen.rfind(':')),
                               ports.empty() ? 0 : ports.front());
  }
  const std::string& address() const override { return address_; }

 private:
  std::shared_ptr<Collector> collector_;  // held weakly by the exposer
  prometheus::Exposer exposer_;
  std::string address_;
};

}  // namespace

Family Counter(std::string name, std::string help, double value) {
  return {.name = std::move(name),
          .help = std::move(help),
          .counter = true,
          .samples = {{.value = value}}};
}

Family Gauge(std::string name, std::string help, double value) {
  return {.name = std::move(name), .help = std::move(help), .samples = {{.value = value}}};
}

StatusOr<std::unique_ptr<MetricsServer>> MetricsServer::Start(const std::string& listen,
                                                              metrics::Collect collect) {
  try {
    return std::make_unique<MetricsServerImpl>(listen, std::move(collect));
  } catch (const std::exception& error) {
    return AlreadyExists("metrics cannot listen on %s: %s", listen, std::string(error.what()));
  }
}

}  // namespace atl::metrics
