"""Several faults at once, and faults while another is being mended."""

import signal

from harness import DEMO, PRESET, ExtraNode, FaultTest, main, make_requests, wait_until

MENDED_S = 5.0
EXPERTS = [f"expert-{i}" for i in range(4)]


class Scenarios:
    def test_one_of_each_role_killed_at_once(self):
        with self.cluster(routers=2, attention=2, experts=3, flags=["--min-replicas", "2"]) as cluster:
            cluster.wait_holders(2)
            with self.streams(cluster) as streams:
                streams.wait_tokens(30)
                streams.fault()
                cluster.kill("router-0", "attention-1", "expert-1")
                streams.wait_tokens(30)
            self.check(streams, longest_s=2.0)

    def test_all_expert_nodes_killed_at_once(self):
        with self.cluster(attention=2, experts=4) as cluster:
            with self.streams(cluster) as streams:
                streams.wait_tokens(30)
                streams.fault()
                cluster.kill(*EXPERTS)
                streams.wait_tokens(30)
            self.check(streams, longest_s=MENDED_S)

    def test_everything_killed_at_once(self):
        with self.cluster(routers=2, attention=2, experts=2) as cluster:
            with self.streams(cluster) as streams:
                streams.wait_tokens(30)
                streams.fault()
                cluster.kill(*(entry["name"] for entry in cluster.processes()))
                streams.wait_tokens(30)
            self.check(streams, longest_s=MENDED_S)

    def test_planners_router_and_sole_holder_killed_at_once(self):
        with self.cluster(routers=2, attention=2, experts=3, flags=["--restart", "never"]) as cluster:
            with cluster.client(1) as client:
                self.assertEqual(client.snapshot().planner, "router-0")
            with self.streams(cluster) as streams:
                streams.wait_tokens(30)
                streams.fault()
                cluster.kill("router-0", "expert-1")
                streams.wait_tokens(30)
            self.check(streams, longest_s=5.0 + 0.5)  # the next router plans within 5 s
            with cluster.client(1) as client:
                self.assertEqual(client.snapshot().planner, "router-1")

    def test_attention_node_and_sole_holder_killed_at_once(self):
        """The replay waits for the load."""
        requests = make_requests(self.model, prompts=(300, 290), tokens=420)
        with self.cluster(attention=2, experts=3, flags=["--restart", "never"]) as cluster:
            with self.streams(cluster, count=4, requests=requests, once=True) as streams:
                streams.wait_tokens(100)
                streams.fault()
                cluster.kill("attention-0", "expert-1")
            self.check(streams, longest_s=MENDED_S)

    def test_killed_during_a_rebalance(self):
        """A node that joins takes experts over: it dies as it begins to, then one that gives some up to the next."""
        with self.cluster(experts=2, flags=["--restart", "never"]) as cluster:
            with self.streams(cluster) as streams:
                streams.wait_tokens(30)
                streams.fault()
                with ExtraNode(cluster, "expert", "expert-new") as first:
                    wait_until(lambda: cluster.num_held("expert-new") > 0, 20, "experts at expert-new")
                    first.process.kill()
                with ExtraNode(cluster, "expert", "expert-newer"):
                    wait_until(lambda: cluster.num_held("expert-newer") > 0, 20, "experts at expert-newer")
                    cluster.kill("expert-0")
                    streams.wait_tokens(30)
                    streams.finish()
            self.check(streams, longest_s=MENDED_S)

    def test_stopped_and_killed_while_stopped(self):
        with self.cluster(attention=2, experts=3, flags=["--min-replicas", "2"]) as cluster:
            cluster.wait_holders(2)
            with self.streams(cluster) as streams:
                streams.wait_tokens(30)
                streams.fault()
                cluster.send(signal.SIGSTOP, "expert-2")
                streams.wait_tokens(5)
                cluster.kill("expert-2")
                streams.wait_tokens(30)
            self.check(streams, longest_s=1.0)


class DemoTest(Scenarios, FaultTest):
    model = DEMO


class PresetTest(Scenarios, FaultTest):
    model = PRESET


if __name__ == "__main__":
    main()
