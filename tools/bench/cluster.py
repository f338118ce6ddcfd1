#!/usr/bin/env python3
"""A cluster of processes on this machine beside one process, turn by turn, on the same cores.

    cluster.py --model DIR [--profile NAME] [--attention N] [--experts N] [--rounds N]

Each round: one stream, 16 streams, a prompt of --prompt-tokens; once with `atoll serve`, once with `atoll cluster`
--dispatch inline and once with service. Prints medians, ratios to one process, the share of the read roof that decode's
weights take at batch 1 (bytes a token from decode_bench, the roof measured before each turn), and a line of JSON.
"""

import argparse
import contextlib
import json
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import programs  # noqa: E402
import streams  # noqa: E402
from atoll_client import api, cluster  # noqa: E402

STREAMS = 16
ONE = "batch 1"


def measure(address, flags, vocab_size, salt):
    return {
        ONE: streams.decode_tokens_per_s(address, 1, flags.max_tokens, vocab_size, salt),
        f"{STREAMS} streams": streams.decode_tokens_per_s(address, STREAMS, flags.max_tokens, vocab_size, salt + 1000),
        f"prompt {flags.prompt_tokens}": streams.prompt_tokens_per_s(address, 1, flags.prompt_tokens, vocab_size, salt + 2000),
    }


def rounds_of(flags, arrangements, roofs):
    """{arrangement: [{work: tokens a second} of each round]}; the read roof is measured before each turn."""
    found = {name: [] for name in arrangements}
    with contextlib.ExitStack() as stack:
        # All are up at once, and idle but for the one whose turn it is.
        servers = {name: stack.enter_context(start()) for name, start in arrangements.items()}
        with api.Client(servers["one process"].address()) as client:
            vocab_size = streams.vocabulary(client)
        for turn in range(flags.rounds):
            for name, server in servers.items():
                roofs.append(programs.read_roof())
                found[name].append(measure(server.address(), flags, vocab_size, 10000 * turn))
    return found


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
    stream_gb, roofs = programs.bytes_per_token(flags.model, flags.profile) / 1e9, []
    found = rounds_of(flags, arrangements, roofs)
    roof = streams.median(roofs)
    row = {"bench": "cluster", "profile": flags.profile, "attention": flags.attention, "experts": flags.experts,
           "roof_gbps": round(roof, 2), "gb_per_token": round(stream_gb, 4)}
    for work in found["one process"][0]:
        medians = {name: streams.median([one[work] for one in rounds]) for name, rounds in found.items()}
        base = medians["one process"]
        print(f"{work:12} " + "   ".join(f"{name} {value:9.1f} tokens/s ({value / base:.2f})"
                                         for name, value in medians.items()))
        row[work] = {name: round(value, 2) for name, value in medians.items()}
    row["share"] = {name: round(value * stream_gb / roof, 4) for name, value in row[ONE].items()}
    print(f"{ONE}, of the read roof of {roof:.1f} GB/s: " +
          "   ".join(f"{name} {100 * share:.0f} %" for name, share in row["share"].items()))
    print(json.dumps(row))
    return 0


if __name__ == "__main__":
    sys.exit(main())
