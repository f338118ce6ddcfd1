"""Attention nodes that die, hang or leave."""

import signal
import time

from harness import DEMO, PRESET, FaultTest, Stopped, main, make_requests, wait_until

REPLAYED_S = 2.0  # 512 tokens of the demo model
HANGS_S = 8.0  # gRPC gives a silent peer up after 2 s and 4 s
NO_GAP_S = 0.25


class Scenarios:
    def long_requests(self):
        """Some 512 tokens when the fault comes, after 212 generated ones."""
        return make_requests(self.model, prompts=(300, 290, 310), tokens=420)

    def test_killed(self):
        with self.cluster(attention=2, experts=2) as cluster:
            with self.streams(cluster, count=4, requests=self.long_requests(), once=True) as streams:
                streams.wait_tokens(212)
                streams.fault()
                # The other one's sequences may have come to their ends already.
                self.check_used_again(cluster, max(("attention-0", "attention-1"), key=cluster.sequences))
            self.check(streams, longest_s=REPLAYED_S)
            self.assertGreater(cluster.metric("router-0", "atoll_router_replays_total"), 0)

    def test_killed_during_the_replay(self):
        # Prompts of their own, greedy and sampled ones: nothing is found in a cache.
        requests = make_requests(self.model, prompts=(1500, 1480, 1460, 1440), tokens=160)[::3] * 2
        with self.cluster(attention=3, experts=2) as cluster:
            with self.streams(cluster, count=4, requests=requests, once=True) as streams:
                streams.wait_tokens(80)
                # Which node has which sequences, and which one replays them, depends on what their caches hold.
                before = {f"attention-{i}": cluster.sequences(f"attention-{i}") for i in range(3)}
                first = max(before, key=before.get)
                before.pop(first)
                streams.fault()
                cluster.kill(first)
                cluster.kill(wait_until(lambda: next((name for name in before if cluster.sequences(name) > before[name]), None),
                                        10, "a replay at another node"))
            self.check(streams, longest_s=2 * REPLAYED_S * 1660 / 512)

    def test_stopped(self):
        with self.cluster(attention=2, experts=2) as cluster:
            with self.streams(cluster, count=4, requests=self.long_requests(), once=True) as streams:
                streams.wait_tokens(100)
                streams.fault()
                with Stopped([cluster.pid_of("attention-0")]):
                    streams.finish()
                # What it did before is over: the runs are others' now.
                wait_until(lambda: cluster.sequences("attention-0") == 0, 10, "the end of its runs")
            self.check(streams, longest_s=HANGS_S)

    def test_stopped_and_continued_at_once(self):
        with self.cluster(attention=2, experts=2) as cluster:
            with self.streams(cluster, count=4) as streams:
                streams.wait_tokens(30)
                streams.fault()
                with Stopped([cluster.pid_of("attention-0")]):
                    time.sleep(1)
                streams.wait_tokens(100)
            self.check(streams, longest_s=1 + NO_GAP_S)

    def drained(self, drain_timeout, longest_s):
        """The supervisor starts another in its place."""
        with self.cluster(attention=2, experts=2, flags=["--drain-timeout", drain_timeout]) as cluster:
            with self.streams(cluster, count=4, requests=self.long_requests()) as streams:
                streams.wait_tokens(100)
                streams.fault()
                old, = cluster.send(signal.SIGTERM, "attention-0")
                cluster.wait_restarted("attention-0", old, timeout_s=30)
                streams.wait_tokens(30)
            self.check(streams, longest_s)

    def test_drained(self):
        self.drained("30s", NO_GAP_S)

    def test_drained_before_its_sequences_end(self):
        self.drained("100ms", REPLAYED_S)


class DemoTest(Scenarios, FaultTest):
    model = DEMO


class PresetTest(Scenarios, FaultTest):
    model = PRESET


if __name__ == "__main__":
    main()
