"""Shared by the end-to-end tests: real processes, real calls, the demo model's expected answers."""

import json
import os
import signal
import subprocess
import sys
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "tools"))

from atoll_client import api, paths  # noqa: E402
from atoll_client.cluster import Cluster, Process, Serve, is_alive, wait_until  # noqa: E402,F401

with open(os.path.join(paths.DEMO_MODEL, "expected.json"), encoding="utf-8") as _file:
    EXPECTED = json.load(_file)["cases"]

# Answers are compared up to the first token whose logit leads the next one's by less: there a profile that rounds may choose
# the other.
SAFE_MARGIN = 3.0


def safe_ids(case):
    """The greedy ids that every profile must give: up to the end mark, or the first margin that is too small."""
    ids = []
    for step, (token, margin) in enumerate(zip(case["ids"], case["margins"])):
        if margin < SAFE_MARGIN:
            break
        ids.append(token)
        if step == case["eos_at"]:
            break
    return ids


def run(arguments, timeout=60, **options):
    """A command that ends by itself: CompletedProcess with text output."""
    return subprocess.run(arguments, cwd=paths.SOURCE, timeout=timeout, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True, check=False, **options)


def atoll(*arguments, **options):
    return run([paths.binary("atoll"), *arguments], **options)


def collect(call):
    """A stream's messages, put together: (ids, text, messages)."""
    ids, text, messages = [], "", []
    for message in call:
        ids += message.token_ids
        text += message.text
        messages.append(message)
    return ids, text, messages


def expert_rows(cluster):
    """{(layer, expert): rows computed} of all expert nodes together."""
    rows = {}
    for entry in cluster.processes("expert"):
        with api.Client(entry["addresses"]["grpc"]) as client:
            for expert in client.describe_expert().experts:
                key = (expert.layer, expert.expert)
                rows[key] = rows.get(key, 0) + expert.rows
    return {key: count for key, count in rows.items() if count > 0}


def gate_rows(cluster, roles=("router",)):
    """{(layer, expert): rows chosen} of all gates together."""
    rows = {}
    for role in roles:
        for entry in cluster.processes(role):
            with api.Client(entry["addresses"]["grpc"]) as client:
                for expert in client.dispatch_stats().experts:
                    key = (expert.layer, expert.expert)
                    rows[key] = rows.get(key, 0) + expert.rows
    return rows


def used_blocks(cluster):
    """Latent cache blocks held by running sequences, of all attention nodes."""
    used = 0
    for entry in cluster.processes("attention"):
        with api.Client(entry["addresses"]["grpc"]) as client:
            used += client.attention_stats().cache_blocks_used
    return used


class Stopped:
    """Processes that are stopped (SIGSTOP) inside the `with`."""

    def __init__(self, pids):
        self.pids = pids

    def __enter__(self):
        for pid in self.pids:
            os.kill(pid, signal.SIGSTOP)
        return self

    def __exit__(self, *_):
        for pid in self.pids:
            os.kill(pid, signal.SIGCONT)


def main():
    unittest.main(verbosity=2)
