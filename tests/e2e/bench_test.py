"""Every benchmark runs and prints its line of JSON; what it measures is for docs/benchmarks.md.

Not peers.py, for which llama.cpp is built for a quarter of an hour: gguf_test.py has what it converts, peers_test.py what it
computes.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import unittest
import xml.etree.ElementTree
from unittest import mock

from support import main, paths

sys.path.insert(0, os.path.join(paths.SOURCE, "tools", "bench"))

import growth  # noqa: E402
import plot  # noqa: E402

DEMO = paths.DEMO_MODEL
TIMEOUT_S = 120


def rows(command):
    ended = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=TIMEOUT_S,
                           env={**os.environ, "ATOLL_BUILD": paths.BUILD})
    if ended.returncode != 0:
        raise AssertionError(f"{command} ended with {ended.returncode}:\n{ended.stdout}{ended.stderr}")
    return [json.loads(line) for line in ended.stdout.splitlines() if line.startswith("{")]


def program(name, *flags):
    return rows([paths.binary(name + "_bench"), *flags])


def script(name, *flags):
    return rows([sys.executable, os.path.join(paths.SOURCE, "tools", "bench", name + ".py"), *flags])


class BenchTest(unittest.TestCase):
    def test_roof(self):
        (row,) = program("roof", "--threads", "1", "--rounds", "1")
        self.assertGreater(row["read_gbps"], 0)

    def test_metrics(self):
        for row in program("metrics", "--rounds", "1"):
            self.assertGreater(row["record_ns"], 0)

    def test_a_dispatch_moves_every_pair_once(self):
        found = program("dispatch", "--shape", "v2-lite", "--experts", "16", "--nodes", "1,3", "--rows", "8", "--rounds", "1",
                        "--seconds", "0.01", "--threads", "1")
        self.assertEqual([(row["link"], row["mode"], row["nodes"]) for row in found],
                         [(link, mode, nodes) for link in ("inproc", "shm") for mode in ("inline", "service")
                          for nodes in (1, 3)])
        row_bytes, pairs = 2048 * 2, 8 * (6 + 1)  # bf16; V2-Lite's top 6 and the shared expert
        for row in found:
            self.assertEqual((row["hidden_size"], row["pairs"]), (2048, pairs))
            self.assertEqual(row["from_experts_bytes"], pairs * row_bytes)
            router_bytes = 8 * row_bytes if row["mode"] == "service" else 0
            self.assertEqual((row["to_router_bytes"], row["from_router_bytes"]), (router_bytes, router_bytes))
            # To each node the rows that it needs, once, and 8 bytes a pair.
            self.assertGreaterEqual(row["to_experts_bytes"], 8 * row_bytes + pairs * 8)
            self.assertLessEqual(row["to_experts_bytes"], row["nodes"] * 8 * row_bytes + pairs * 8)
            self.assertGreaterEqual(row["most_pairs"], pairs / row["nodes"])
            self.assertGreaterEqual(row["p99_us"], row["p50_us"])
            self.assertAlmostEqual(row["us_per_row"], row["p50_us"] / 8, delta=0.01)
            self.assertGreater(row["gate_share"], 0)
            self.assertGreater(row["combine_share"], 0)
            self.assertLess(row["gate_share"] + row["combine_share"], 1)

    def test_a_dispatch_takes_as_long_as_its_busiest_node(self):
        found = program("dispatch", "--shape", "v2-lite", "--experts", "16", "--nodes", "1,4", "--rows", "8", "--rounds", "1",
                        "--seconds", "0.01", "--even", "--pair-us", "200")
        for row in found:
            self.assertEqual((row["pairs"], row["most_pairs"]), (8 * 6, 8 * 6 / row["nodes"]))
            self.assertGreaterEqual(row["p50_us"], 200 * row["most_pairs"])

    def test_growth_of_dispatches(self):
        with tempfile.NamedTemporaryFile(suffix=".svg") as drawn:
            found = script("growth", "--series", "nodes_64,gate", "--rounds", "1", "--seconds", "0.01", "--svg", drawn.name)
            picture = xml.etree.ElementTree.parse(drawn).getroot()
        self.assertEqual([row["series"] for row in found], ["nodes_64", "gate"])
        self.assertEqual(found[0]["values"], [1, 2, 4, 8, 16, 32, 64])
        self.assertEqual(found[0]["most_pairs_over_mean"], [1] * 7)
        # Costs that only load can raise: what the stand-ins' own time comes to.
        for nodes, cost in zip(found[0]["values"], found[0]["costs"]):
            self.assertGreaterEqual(cost, 64 * 6 * growth.PAIR_US / nodes)
        names = [text.text for text in picture.iter("{http://www.w3.org/2000/svg}text")]
        for row in found:
            self.assertIn(f"expected, {row['expected_slope']:.2f}", names)
        dashed = [line for line in picture.iter("{http://www.w3.org/2000/svg}polyline") if line.get("stroke-dasharray")]
        self.assertEqual(len(dashed), 2)

    def test_growth_of_tokens(self):
        series = growth.Series("layers", "layers", "us a token", [1, 2], 1, "")
        flags = argparse.Namespace(profile="q8", tokens=2)
        with tempfile.TemporaryDirectory() as folder, \
                mock.patch.dict(growth.BASE, experts=8, batch=2, context=16):
            costs, _ = growth.token_costs(series, folder, flags)
            self.assertEqual(sorted(os.listdir(folder)), ["1-8", "2-8"])
        self.assertEqual(len(costs), 2)
        self.assertGreater(min(costs), 0)

    def test_growth_tells_slopes_and_what_bends(self):
        values = [1, 2, 4, 8]
        self.assertAlmostEqual(growth.slope(values, [80, 40, 20, 10]), -1)
        self.assertAlmostEqual(growth.slope(values, [7, 7, 7, 7]), 0)
        falls = growth.Series("s", "x", "y", values, -1, "")
        self.assertEqual(growth.expectation(falls, [80, 41, 26, 12]), [80, 40, 20, 10])
        self.assertEqual(growth.bends(values, [80, 41, 26, 12], [80, 40, 20, 10]), [(4, 1.3)])
        line = growth.Series("s", "x", "y", values, growth.LINE, "")
        self.assertEqual(growth.expectation(line, [10, 15, 16, 99]), [10, 12, 16, 24])

    def test_logarithmic_ticks_are_round_and_cover(self):
        for low, high in ((1, 1), (10, 10.5), (0.87, 14.1), (6023, 385489), (9, 11), (0.003, 4000), (20, 100)):
            ticks = plot.log_ticks(low, high)
            self.assertLessEqual(ticks[0], low)
            self.assertGreaterEqual(ticks[-1], high)
            self.assertGreaterEqual(len(ticks), 2)
            self.assertLessEqual(len(ticks), 11)

    def test_decode_of_several_batches(self):
        found = program("decode", "--model", DEMO, "--tokens", "4", "--batch", "1,3", "--expert-nodes", "2")
        self.assertEqual([row["batch"] for row in found], [1, 3])
        for row in found:
            self.assertGreater(row["tokens_per_s"], 0)

    def test_prefill(self):
        found = program("prefill", "--model", DEMO, "--lengths", "20,70", "--chunk", "32", "--rounds", "1")
        self.assertEqual([row["tokens"] for row in found], [20, 70])

    def test_serve_counts_every_request_and_token(self):
        (row,) = script("serve", "--model", DEMO, "--requests", "6", "--concurrency", "3", "--prompt-tokens", "20",
                        "--max-tokens", "5")
        self.assertEqual((row["requests"], row["failed"]), (6, 0))
        self.assertAlmostEqual(row["tokens_per_s"] * row["seconds"], 30, delta=0.5)
        self.assertGreaterEqual(row["ttft_p99_ms"], row["ttft_p50_ms"])

    def test_cluster_beside_one_process(self):
        (row,) = script("cluster", "--model", DEMO, "--context", "512", "--prompt-tokens", "100", "--max-tokens", "48",
                        "--rounds", "1")
        for work in ("batch 1", "16 streams", "prompt 100"):
            self.assertEqual(set(row[work]), {"one process", "inline", "service"})

    def test_startup(self):
        found = script("startup", "--model", DEMO, "--profiles", "q8", "--prompt-tokens", "200", "--rounds", "1",
                       "--decode-rounds", "1", "--decode-tokens", "4")
        self.assertEqual([row["case"] for row in found],
                         ["cold", "page cache", "keeping", "packed", "packed cold", "mapped", "decode"])
        *starts, decode = found
        for row in starts:
            self.assertGreater(row["first_token_s"], row["load_s"])
            self.assertGreater(row["gbps"], 0)
            self.assertEqual(row["packed_gb"], starts[0]["packed_gb"])
            self.assertEqual(row["made_gb"], row["packed_gb"] if row["case"] in ("cold", "page cache", "keeping") else 0)
        self.assertGreater(decode["mapped"], 0)


if __name__ == "__main__":
    main()
