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
import unittest

from support import main, paths

sys.path.insert(0, os.path.join(paths.SOURCE, "tools", "bench"))

import mixed  # noqa: E402
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
