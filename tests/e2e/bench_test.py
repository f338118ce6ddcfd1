"""Every benchmark runs and prints its line of JSON; what it measures is for docs/benchmarks.md.

Not peers.py, for which llama.cpp is built for a quarter of an hour: gguf_test.py has what it converts, peers_test.py what it
computes.
"""

import json
import os
import subprocess
import sys
import unittest

from support import main, paths

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
