"""Every benchmark runs and prints its line of JSON; what it measures is for docs/benchmarks.md.

Not peers.py, for which llama.cpp is built for a quarter of an hour: gguf_test.py has what it converts, peers_test.py what it
computes.
"""

import argparse
import collections
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
import mixed  # noqa: E402
import plot  # noqa: E402
import profile  # noqa: E402
import steady  # noqa: E402
import streams  # noqa: E402

DEMO = paths.DEMO_MODEL
TIMEOUT_S = 300


def run(command, code=0, **env):
    """What it printed."""
    ended = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=TIMEOUT_S,
                           env={**os.environ, "ATOLL_BUILD": paths.BUILD, **env})
    if ended.returncode != code:
        raise AssertionError(f"{command} ended with {ended.returncode}:\n{ended.stdout}{ended.stderr}")
    return ended.stdout


def rows(command, code=0):
    return [json.loads(line) for line in run(command, code).splitlines() if line.startswith("{")]


def program(name, *flags):
    return rows([paths.binary(name + "_bench"), *flags])


def script_command(name, *flags):
    return [sys.executable, os.path.join(paths.SOURCE, "tools", "bench", name + ".py"), *flags]


def script(name, *flags, code=0):
    return rows(script_command(name, *flags), code)


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
        self.assertEqual((row["requests"], row["failed"], row["tokens"]), (6, 0, 30))
        self.assertAlmostEqual(row["tokens_per_s"] * row["seconds"] / 30, 1, delta=0.05)  # both are rounded
        self.assertGreaterEqual(row["ttft_p99_ms"], row["ttft_p50_ms"])
        self.assertNotIn("share", row)  # how often several streams read the weights is not known

    def test_serve_tells_the_share_of_one_stream(self):
        (row,) = script("serve", "--model", DEMO, "--requests", "2", "--concurrency", "1", "--prompt-tokens", "4",
                        "--max-tokens", "8")
        self.assertAlmostEqual(row["share"], row["gbps"] / row["roof_gbps"], delta=1e-4)
        self.assertGreater(row["share"], 0)

    def test_cluster_beside_one_process(self):
        (row,) = script("cluster", "--model", DEMO, "--context", "512", "--prompt-tokens", "100", "--max-tokens", "48",
                        "--rounds", "1")
        for work in ("batch 1", "16 streams", "prompt 100"):
            self.assertEqual(set(row[work]), {"one process", "inline", "service"})
        for name, speed in row["batch 1"].items():
            self.assertAlmostEqual(row["share"][name], speed * row["gb_per_token"] / row["roof_gbps"], delta=0.01)

    def test_mixed(self):
        found = script("mixed", "--model", DEMO, "--chunks", "default,64,off", "--streams", "3", "--prompt-tokens", "200",
                       "--prompts", "2", "--alone-tokens", "8", "--context", "2048", "--rounds", "2")
        self.assertEqual([row["chunk"] for row in found], ["default", "64", "off"])
        for row in found:
            self.assertGreater(row["alone"]["gaps"], 0)
            # At least the step in which a prompt ended, of every stream.
            self.assertGreaterEqual(row["with prompts"]["gaps"], 3)
            self.assertGreater(row["ttft_p50_ms"], 0)

    def test_mixed_of_a_cluster_with_prompts_at_a_rate(self):
        (row,) = script("mixed", "--model", DEMO, "--chunks", "default", "--streams", "2", "--prompt-tokens", "100", "--prompts",
                        "3", "--rate", "20", "--alone-tokens", "4", "--context", "2048", "--rounds", "1", "--experts", "2")
        self.assertEqual(row["rate"], 20)

    def test_gaps_of_mixed(self):
        stream = streams.Stream()
        stream.token_times = [0, 1, 2, 5, 6, 7]
        self.assertEqual(mixed.gaps_within([stream], 0.5, 5.5), [1, 3])
        self.assertEqual(mixed.gaps_over([stream], [(2.5, 4), (6.9, 8)]), [3, 1])
        self.assertEqual(mixed.gaps_over([stream], [(2, 5)]), [3])

    def test_switches_do_what_they_say(self):
        found = script("switches", "--model", DEMO, "--streams", "4,160", "--prompt-tokens", "200", "--max-tokens", "200",
                       "--rounds", "1")
        works = ["4 streams", "160 streams", "2 prompts of 200"]
        self.assertEqual([(row["switch"], row["work"]) for row in found],
                         [(switch, work) for switch in ("ping-pong", "merge") for work in works])
        for row in found:
            self.assertAlmostEqual(row["ratio"], row["on"]["tokens_per_s"] / row["off"]["tokens_per_s"], delta=1e-3)
            if row["switch"] == "merge":
                self.assertEqual(row["off"]["merged"], 0)
                continue
            self.assertEqual(row["off"]["step_parts"], 1)
            if row["work"] == "4 streams":  # too few to be split, but for a step with several prompts
                self.assertLess(row["on"]["step_parts"], 2)
            else:
                self.assertGreater(row["on"]["step_parts"], 1)
        # How many callers' work meets is a matter of time; two parts of 100 rows each from two nodes do somewhere.
        self.assertGreater(sum(row["on"]["merged"] for row in found), 0)

    STEADY = ("steady", "--model", DEMO, "--minutes", "0.15", "--warm-up-minutes", "0.05", "--interval", "1.5", "--streams", "4",
              "--long-tokens", "150", "--max-tokens", "24")

    def test_steady(self):
        *windows, end = script(*self.STEADY, "--max-growth-mib", "10000", "--max-drift-percent", "1000000")
        self.assertEqual(len(windows), 6)
        processes = {"cluster", "router-0", "attention-0", "expert-0", "expert-1"}
        for row in windows:
            self.assertEqual(set(row["rss_mib"]), processes)
            self.assertGreater(min(row["rss_mib"].values()), 0)
        self.assertEqual((end["errors"], end["problems"], set(end["growth"])), (0, [], processes))
        self.assertGreaterEqual(sum(end["calls"].values()), windows[-1]["calls"])
        self.assertGreater(end["itl_p50_last_ms"], 0)

    def test_steady_fails_where_bounds_are_broken(self):
        end = script(*self.STEADY, "--max-growth-mib=-10000", "--max-drift-percent=-1", code=1)[-1]
        problems = " ".join(end["problems"])
        for name in ("cluster", "router-0", "attention-0", "expert-0", "expert-1"):
            self.assertIn(f"{name}: grew by", problems)
        self.assertIn("ITL p50 drifted by", problems)
        self.assertEqual(len(end["problems"]), 6)

    def test_steady_makes_the_same_mix_in_every_twenty_calls(self):
        flags = argparse.Namespace(seed=3, long_tokens=500, max_tokens=20)
        requests = steady.Requests(flags, 5000, True)
        made = [requests.next() for _ in range(40)]
        for part in (made[:20], made[20:]):
            self.assertEqual(collections.Counter(kind for kind, _, _ in part), steady.MIX)
        for kind, request, hang_up in made:
            self.assertEqual(bool(request.stop), kind == "stop")
            self.assertEqual(hang_up is not None, kind == "hung up")
            self.assertEqual(len(request.token_ids.ids) == 500, kind.startswith("long"))

    def test_profile(self):
        command = script_command("profile", "--model", DEMO, "--streams", "4", "--max-tokens", "200")
        reason = profile.why_not()
        if reason:
            self.assertEqual(run(command, profile.NOT_HERE), f"profile: {reason}\n")
            return
        (row,) = rows(command)
        self.assertEqual((row["tokens"], row["vocab_size"], row["tokenizer"]), (800, 2048, True))
        self.assertAlmostEqual(sum(row["shares"].values()), 1, delta=0.01)
        self.assertGreater(row["shares"]["kernels"], 0)  # the binaries have their symbols

    def test_profile_without_perf(self):
        self.assertEqual(run(script_command("profile", "--model", DEMO), profile.NOT_HERE, PATH="/nonexistent"),
                         "profile: perf is not here (Debian: the package linux-perf)\n")

    def test_places_of_samples(self):
        atoll = "/x/bin/atoll"
        for place, function, library in (
                ("kernels", "atl::kernels::avx512vnni::TileQuant<6, 2, false, true>", atoll),
                ("kernels", "absl::debian3::functional_internal::InvokeObject<atl::kernels::GroupedFfn(int)::{lambda()#1}>", atoll),
                ("sampling", "std::__introsort_loop<__normal_iterator<atl::kernels::TopEntry*>, long>", atoll),
                ("sampling", "atl::attention::Sampler::Draw", atoll), ("sampling", "atl::kernels::avx2::ExpSum", atoll),
                ("attention engine", "atl::attention::Engine::Run", atoll), ("text", "atl::text::Bpe::Merge", atoll),
                ("dispatch, experts", "atl::expert::ExpertEngine::State::RunBatch", atoll),
                ("gRPC, protobuf", "grpc::internal::CallOpSet<atl::x>::FillOps", atoll),
                ("gRPC, protobuf", "[unknown]", "/usr/lib/x86_64-linux-gnu/libgrpc.so.29.0.0"),
                ("allocation", "_int_malloc", "/usr/lib/libc.so.6"), ("allocation", "operator new", "/usr/lib/libstdc++.so.6"),
                ("allocation", "cfree@GLIBC_2.2.5", "/usr/lib/libc.so.6"), ("other", "__memmove_avx512", "/usr/lib/libc.so.6"),
                ("operating system", "finish_task_switch.isra.0", "[kernel.kallsyms]"), ("operating system", "x", "[vdso]")):
            self.assertEqual(profile.place_of(function, library), place, function)
        text = ("  55d0 atl::kernels::A(float const*)::{lambda(int)#1}::operator()+0x1c (/x/bin/atoll)\n\n"
                "ffffffff81 do_syscall_64+0x5 ([kernel.kallsyms])\n  7f00 [unknown] (/usr/lib/libgrpc.so.29)\n")
        self.assertEqual([place for place, _ in profile.samples_of(text)], ["kernels", "operating system", "gRPC, protobuf"])

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
