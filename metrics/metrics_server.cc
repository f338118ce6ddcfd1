#include "metrics/metrics_server.h"

#include <netdb.h>
#include <prometheus/collectable.h>
#include <prometheus/exposer.h>
#include <prometheus/metric_family.h>
#include <sys/socket.h>
#include <unistd.h>

#include <exception>
#include <iterator>
#include <limits>
#include <thread>

#include "absl/strings/str_format.h"
#include "absl/synchronization/notification.h"

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
    if (family.distribution) {
      out.type = prometheus::MetricType::Histogram;
      out.metric.push_back(Convert(*family.distribution));
      return out;
    }
    out.type = family.counter ? prometheus::MetricType::Counter : prometheus::MetricType::Gauge;
    for (const Family::Sample& sample : family.samples) {
      prometheus::ClientMetric metric;
      for (const auto& [name, value] : sample.labels) metric.label.push_back({name, value});
      (family.counter ? metric.counter.value : metric.gauge.value) = sample.value;
      out.metric.push_back(std::move(metric));
    }
    return out;
  }

  // Prometheus' buckets count all that is not larger than their bound.
  static prometheus::ClientMetric Convert(const Distribution& distribution) {
    prometheus::ClientMetric metric;
    metric.histogram.sample_count = distribution.count();
    metric.histogram.sample_sum = distribution.sum;
    uint64_t cumulative = 0;
    for (size_t i = 0; i < distribution.counts.size(); ++i) {
      cumulative += distribution.counts[i];
      const bool last = i == distribution.bounds.size();
      metric.histogram.bucket.push_back(
          {cumulative, last ? std::numeric_limits<double>::infinity() : distribution.bounds[i]});
    }
    return metric;
  }

  const metrics::Collect collect_;
};

// Connects to a listener of this machine and hangs up. A wildcard address leads to the loopback.
void Knock(std::string host, int port) {
  if (host.starts_with('[') && host.ends_with(']')) host = host.substr(1, host.size() - 2);
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV;
  addrinfo* found = nullptr;
  if (getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &found) != 0) return;
  const int fd = socket(found->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd >= 0) {
    connect(fd, found->ai_addr, found->ai_addrlen);  // whether it succeeds does not matter
    close(fd);
  }
  freeaddrinfo(found);
}

class MetricsServerImpl : public MetricsServer {
 public:
  MetricsServerImpl(const std::string& listen, metrics::Collect collect)
      : collector_(std::make_shared<Collector>(std::move(collect))),
        exposer_(std::make_unique<prometheus::Exposer>(listen, /*num_threads=*/1)) {
    exposer_->RegisterCollectable(collector_);
    const std::vector<int> ports = exposer_->GetListeningPorts();
    host_ = listen.substr(0, listen.rfind(':'));
    port_ = ports.empty() ? 0 : ports.front();
    address_ = absl::StrFormat("%s:%d", host_, port_);
  }

  // The exposer's listener looks whether it is to end when somebody connects, else every two
  // seconds only.
  ~MetricsServerImpl() override {
    absl::Notification ended;
    std::thread ending([this, &ended] {
      exposer_.reset();
      ended.Notify();
    });
    while (!ended.WaitForNotificationWithTimeout(absl::Milliseconds(10))) Knock(host_, port_);
    ending.join();
  }

  const std::string& address() const override { return address_; }

 private:
  std::shared_ptr<Collector> collector_;  // held weakly by the exposer
  std::unique_ptr<prometheus::Exposer> exposer_;
  std::string host_;
  int port_ = 0;
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

Family DistributionOf(std::string name, std::string help, const Histogram& histogram) {
  return {.name = std::move(name), .help = std::move(help), .distribution = histogram.Read()};
}

void Append(std::vector<Family> more, std::vector<Family>* all) {
  all->insert(all->end(), std::make_move_iterator(more.begin()),
              std::make_move_iterator(more.end()));
}

StatusOr<std::unique_ptr<MetricsServer>> MetricsServer::Start(const std::string& listen,
                                                              metrics::Collect collect) {
  try {
    return std::make_unique<MetricsServerImpl>(listen, std::move(collect));
  } catch (const std::exception& error) {
    return AlreadyExists("metrics cannot listen on %s; is the port in use? (civetweb: %s)", listen,
                         std::string(error.what()));
  }
}

}  // namespace atl::metrics
