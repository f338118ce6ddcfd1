#!/usr/bin/env python3
"""A cluster of processes on this machine beside one process, turn by turn, on the same cores.

    cluster.py --model DIR [--profile NAME] [--attention N] [--experts N] [--rounds N]

Each round: one stream, 16 streams, a prompt of --prompt-tokens; once with `atoll serve`, once with `atoll cluster`
--dispatch inline and once with service. Prints medians, ratios to one process, and a line of JSON.
"""

import argparse
import contextlib
import json
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import streams  # noqa: E402
from atoll_client import api, cluster  # noqa: E402
from atollpb.v1 import inference_pb2  # noqa: E402

STREAMS = 16


def tokens_per_s(address, count, prompt_tokens, max_tokens, vocab_size, salt):
    requests = [api.ids_request(streams.prompt(salt + i, prompt_tokens, vocab_size), max_tokens=max_tokens, temperature=0,
                                ignore_eos=True) for i in range(count)]
    results, _ = streams.run_load(address, requests, [0.0] * count, 0)
    for stream in results:
        if stream.error:
            raise RuntimeError(stream.error)
    if max_tokens == 1:  # a prompt
        return prompt_tokens / results[0].ttft
    # From when every stream has its first token to when the first has its last: all are decoding.
    begin = max(stream.token_times[0] for stream in results)
    end = min(stream.token_times[-1] for stream in results)
    tokens = sum(1 for stream in results for at in stream.token_times if begin < at <= end)
    if tokens == 0:
        raise RuntimeError(f"--max-tokens {max_tokens}: the first of {count} streams ended before all had begun; ask for more")
    return tokens / (end - begin)


def measure(address, flags, vocab_size, salt):
    return {
        "batch 1": tokens_per_s(address, 1, 16, flags.max_tokens, vocab_size, salt),
        f"{STREAMS} streams": tokens_per_s(address, STREAMS, 16, flags.max_tokens, vocab_size, salt + 1000),
        f"prompt {flags.prompt_tokens}": tokens_per_s(address, 1, flags.prompt_tokens, 1, vocab_size, salt + 2000),
    }


def median(values):
    return sorted(values)[len(values) // 2]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--profile", default="q8")
    parser.add_argument("--attention", type=int, default=1)
    parser.add_argument("--experts", type=int, default=2)
    parser.add_argument("--context", type=int, default=2048)
    parser.add_argument("--prompt-tokens", type=int, default=512)
    parser.add_argument("--max-tokens", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=3)
    flags = parser.parse_args()
    common = ["--profile", flags.profile, "--context", str(flags.context)]
    arrangements = {"one process": lambda: cluster.Serve(flags.model, common)}
    for dispatch in ("inline", "service"):
        arrangements[dispatch] = lambda dispatch=dispatch: cluster.Cluster(
            1, flags.attention, flags.experts, model=flags.model, flags=[*common, "--dispatch", dispatch])
    found = {name: [] for name in arrangements}
    with contextlib.ExitStack() as stack:
        # All are up at once, and idle but for the one whose turn it is.
        servers = {name: stack.enter_context(start()) for name, start in arrangements.items()}
        with api.Client(servers["one process"].address()) as client:
            vocab_size = client.call("ModelService/GetModel", inference_pb2.GetModelRequest()).vocab_size
        for turn in range(flags.rounds):
            for name, server in servers.items():
                found[name].append(measure(server.address(), flags, vocab_size, 10000 * turn))
    row = {"bench": "cluster", "profile": flags.profile, "attention": flags.attention, "experts": flags.experts}
    for work in found["one process"][0]:
        medians = {name: median([one[work] for one in rounds]) for name, rounds in found.items()}
        base = medians["one process"]
        print(f"{work:12} " + "   ".join(f"{name} {value:9.1f} tokens/s ({value / base:.2f})"
                                         for name, value in medians.items()))
        row[work] = {name: round(value, 2) for name, value in medians.items()}
    print(json.dumps(row))
    return 0


if __name__ == "__main__":
    sys.exit(main())
