"""Clusters that faults are done to, and what the tests of them share."""

import concurrent.futures
import json
import os
import signal
import sys
import time
import unittest
import urllib.request

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))

from support import Cluster, Process, Stopped, api, is_alive, main, paths, wait_until  # noqa: E402,F401
from streams import Streams  # noqa: E402

DEMO = paths.DEMO_MODEL
PRESET = os.path.join(paths.BUILD, "golden", "v3", "checkpoint")  # tests/golden
_undisturbed = {}


def model_config(model):
    with open(os.path.join(model, "config.json"), encoding="utf-8") as file:
        return json.load(file)


def make_requests(model, prompts=(1, 40, 63, 64, 150, 200), tokens=160):
    """One greedy and one sampled request a prompt length. They end by their number of tokens alone."""
    vocab = model_config(model)["vocab_size"]
    requests = []
    for i, length in enumerate(prompts):
        ids = [3 + (7 * at * at + 131 * i) % (vocab - 3) for at in range(length)]
        requests.append(api.ids_request(ids, max_tokens=tokens, ignore_eos=True, temperature=0))
        requests.append(api.ids_request(ids, max_tokens=tokens, ignore_eos=True, temperature=1.0, top_p=0.95,
                                        seed=1000 + i))
    return requests


def undisturbed(model, requests, flags=()):
    """Token ids of each request, from a cluster that nothing happens to."""
    key = (model, tuple(flags), tuple(request.SerializeToString(deterministic=True) for request in requests))
    if key not in _undisturbed:
        with FaultyCluster(model=model, routers=1, attention=1, experts=1, flags=flags) as cluster, \
                cluster.client() as client, concurrent.futures.ThreadPoolExecutor(8) as threads:
            _undisturbed[key] = [list(answer.token_ids) for answer in threads.map(client.generate, requests)]
    return _undisturbed[key]


class FaultyCluster(Cluster):
    """`atoll cluster` whose processes can be hurt by name. Restarted ones are found anew by each call."""

    def __init__(self, model, **options):
        self.model = model
        super().__init__(model=model, **options)

    def __exit__(self, *error):
        self.process.kill()  # its children end with it; how it ends by itself is lifecycle_test's
        self.process.wait()
        super().__exit__(*error)

    def pid_of(self, name):
        return wait_until(lambda: self.process_named(name), 10, f"{name} in the status file")["pid"]

    def send(self, number, *names):
        """Returns the pids."""
        pids = [self.pid_of(name) for name in names]
        for pid in pids:
            os.kill(pid, number)
        return pids

    def kill(self, *names):
        return self.send(signal.SIGKILL, *names)

    def router_addresses(self):
        return [entry["addresses"]["grpc"] for entry in self.processes("router")]

    def holders(self, router=0):
        """{(layer, expert): names}, as the router dispatches by it."""
        with self.client(router) as client:
            return {(entry.layer, entry.expert): set(entry.nodes) for entry in client.placement().entries}

    def wait_holders(self, count, router=0, timeout_s=30):
        """Until every expert has that many."""
        wait_until(lambda: all(len(nodes) >= count for nodes in self.holders(router).values()), timeout_s,
                   f"{count} holders of every expert")

    def wait_settled(self, router=0, quiet_s=0.7, timeout_s=30):
        """Until every expert has a holder and nothing has moved for so long."""
        seen = [None, 0.0]

        def settled():
            now = self.holders(router)
            if now != seen[0]:
                seen[:] = [now, time.monotonic()]
            return all(now.values()) and time.monotonic() - seen[1] > quiet_s

        wait_until(settled, timeout_s, "a placement that stays")

    def wait_restarted(self, name, old_pid, router=0, timeout_s=10):
        """Until the router uses another process of that name."""
        def used_again():
            with self.client(router) as client:
                return any(node.info.name == name and node.info.pid != old_pid
                           and (node.state.holds or not name.startswith("expert"))
                           for node in client.snapshot().view.nodes)

        wait_until(used_again, timeout_s, f"another {name}")

    def wait_gone(self, name, router=0, timeout_s=20):
        """Until the router lists no such node."""
        def gone():
            with self.client(router) as client:
                return all(node.info.name != name for node in client.snapshot().view.nodes)

        wait_until(gone, timeout_s, f"a view without {name}")

    def metric(self, process, name):
        """Sum of a metric's samples at one process."""
        url = f"http://{self.process_named(process)['addresses']['metrics']}/metrics"
        with urllib.request.urlopen(url, timeout=10) as response:
            lines = response.read().decode().splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith((name + " ", name + "{")))

    def num_held(self, name, router=0):
        """Experts that a node has announced."""
        with self.client(router) as client:
            return sum(len(layer.experts) for node in client.snapshot().view.nodes if node.info.name == name
                       for layer in node.state.holds)

    def sequences(self, name):
        """Sequences at an attention node, running and waiting."""
        with api.Client(self.process_named(name)["addresses"]["grpc"]) as client:
            stats = client.attention_stats()
            return stats.running_sequences + stats.waiting_sequences


class ExtraNode(Process):
    """A node beside those that the supervisor looks after, of `model` or the cluster's."""

    def __init__(self, cluster, role, name, model=None, flags=(), join=None):
        super().__init__([paths.binary("atoll"), role, "--model", model or cluster.model, "--name", name, "--join",
                          ",".join(join or cluster.router_addresses()), "--log-level", "info", *flags])

    def __exit__(self, *error):
        self.process.kill()
        self.process.wait()
        super().__exit__(*error)


class FaultTest(unittest.TestCase):
    """A test starts a cluster, streams over it, and a fault; `check` compares what the streams got."""

    model = DEMO
    flags = ()  # that tokens depend on

    def cluster(self, flags=(), **options):
        return FaultyCluster(model=self.model, flags=[*self.flags, *flags], **options)

    def streams(self, cluster, count=8, requests=None, once=False):
        requests = requests or make_requests(self.model)
        undisturbed(self.model, requests, self.flags)  # before there is any load
        return Streams(cluster.router_addresses(), requests, count, once)

    def check_used_again(self, cluster, name, router=0):
        """Kills it: another one of its name is used within a second, after the 0.1 s that the supervisor waits."""
        old, = cluster.kill(name)
        killed = time.monotonic()
        cluster.wait_restarted(name, old, router)
        back = time.monotonic() - killed
        print(f"\n{name} was used again after {1000 * back:.0f} ms", flush=True)
        self.assertLess(back, 1.1)

    def check(self, streams, longest_s):
        """After the streams' end: nothing lost, nothing twice, the same tokens, no longer gap."""
        print("\n" + streams.report(self.id().split(".", 1)[1]), flush=True)
        self.assertEqual(streams.problems(undisturbed(self.model, streams.requests, self.flags)), [])
        self.assertLessEqual(streams.longest_gap(), longest_s)
