"""Hosts that are cut off from the others, and come back."""

import contextlib
import time

import grpc

from harness import DEMO, FaultTest, api, main, make_requests, undisturbed, wait_until
from namespaces import Network, enter
from streams import Streams

SILENT_S = 8.0  # gRPC gives a silent peer up after 2 s and 4 s
HEDGED_S = 1.0


class Hosts:
    """Two routers, two attention nodes and two expert nodes that each hold everything, on six hosts."""

    def __init__(self, model):
        self._stack = contextlib.ExitStack()
        network = self._stack.enter_context(Network())
        self.hosts, self.nodes = {}, {}
        routers = ["10.77.0.2:8470", "10.77.0.3:8470"]
        for role in ("router", "attention", "expert"):
            for idx in range(2):
                flags = ["--rank", str(idx), "--min-replicas", "2"] if role == "router" else []
                name = f"{role}-{idx}"
                self.hosts[name] = network.add_host()
                node = self.hosts[name].start(role, name, model, routers, *flags)
                self.nodes[name] = self._stack.enter_context(node)

    def __enter__(self):
        for name in ("router-0", "router-1"):
            wait_until(lambda: self.is_complete(name), 60, f"all nodes at {name}")
        return self

    def __exit__(self, *error):
        self._stack.__exit__(*error)

    def router_addresses(self):
        return [f"{self.hosts[name].address}:8470" for name in ("router-0", "router-1")]

    def names_at(self, router):
        """Nodes that a router lists; expert nodes, if they hold anything."""
        with api.Client(f"{self.hosts[router].address}:8470") as client:
            return {node.info.name for node in client.snapshot().view.nodes
                    if node.state.holds or not node.info.name.startswith("expert")}

    def is_complete(self, router):
        with api.Client(f"{self.hosts[router].address}:8470") as client:
            try:
                view = client.snapshot().view
                held = [sum(len(layer.experts) for layer in node.state.holds) for node in view.nodes
                        if node.info.name.startswith("expert")]
                total = {(entry.layer, entry.expert) for entry in client.placement().entries}
                return len(view.nodes) == 6 and held == [len(total)] * 2 and client.health("readiness") == 1
            except grpc.RpcError:
                return False


class CutTest(FaultTest):
    model = DEMO

    def run_cut(self, cut, other_router, until, longest_s):
        requests = make_requests(self.model)
        undisturbed(self.model, requests)
        with Hosts(self.model) as hosts, Streams(hosts.router_addresses(), requests, count=6) as streams:
            streams.wait_tokens(30)
            streams.fault()
            hosts.hosts[cut].cut()
            until(hosts, streams)
            hosts.hosts[cut].mend()
            wait_until(lambda: cut in hosts.names_at(other_router), 20, f"{cut} back")
            if cut.startswith("attention"):
                with api.Client(f"{hosts.hosts[cut].address}:8470") as client:
                    self.old_runs_end(client, streams)
            streams.wait_tokens(30)
            streams.finish()
        self.check(streams, longest_s)

    def old_runs_end(self, client, streams):
        """Of what was cut off nothing goes on: the node has no more than the clients ask for."""
        wait_until(lambda: client.attention_stats().running_sequences <= len(streams.answers), 10, "the old runs' end")

    def cut_off(self, name, router="router-0"):
        def until(hosts, streams):
            wait_until(lambda: name not in hosts.names_at(router), 20, f"a view without {name}")
            streams.wait_tokens(20)
        return until

    @staticmethod
    def a_second(hosts, streams):
        time.sleep(1)

    def test_expert_host(self):
        self.run_cut("expert-1", "router-0", self.cut_off("expert-1"), HEDGED_S)

    def test_attention_host(self):
        self.run_cut("attention-0", "router-0", self.cut_off("attention-0"), SILENT_S)

    def test_router_host(self):
        self.run_cut("router-0", "router-1", self.cut_off("router-0", "router-1"), SILENT_S)

    def test_expert_host_for_a_second(self):
        self.run_cut("expert-1", "router-0", self.a_second, HEDGED_S)

    def test_attention_host_for_a_second(self):
        self.run_cut("attention-0", "router-0", self.a_second, 1 + 2.0)  # TCP's own retransmission comes after it


if __name__ == "__main__":
    enter()
    main()
