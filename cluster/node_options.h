// Settings that every role has; read once in main, documented where the flags are declared
// (cli/flags.cc).
#pragma once

#include <string>
#include <vector>

#include "absl/time/time.h"

namespace atl::cluster {

struct NodeOptions {
  std::string name;  // unique in the cluster; empty: made from role, host and pid
  std::string model_dir;
  std::string profile;                 // numeric profile; empty: model::kDefaultProfile
  std::string listen = "127.0.0.1:0";  // gRPC
  std::string advertise;               // HOST:PORT that others use; empty: where it listens
  std::vector<std::string>
      join;  // routers: HOST:PORT, dns:NAME:PORT, file:PATH (one HOST:PORT a line)
  std::vector<std::string> links;  // link kinds allowed, best first; empty: shm, unix, tcp
  int link_spin_us = -1;           // before a thread that waits for links sleeps; -1: LinkSpin()
  std::string data_listen;         // HOST:PORT of tcp links; empty: listen's host, a free port
  std::string health_listen;       // HOST:PORT; empty: none
  std::string metrics_listen;      // HOST:PORT of Prometheus metrics; empty: none
  bool insecure = false;  // plaintext may leave this machine; else loopback and unix sockets only
  std::string isa = "auto";
  int threads = 0;   // of the compute pool; 0: all cores
  std::string zone;  // failure domain
  absl::Duration coverage_timeout = absl::Seconds(60);
  absl::Duration drain_timeout = absl::Seconds(25);
};

// What a started process is reachable at: the status file's "addresses".
struct NodeAddresses {
  std::string grpc, data, health, metrics;
};

}  // namespace atl::cluster
