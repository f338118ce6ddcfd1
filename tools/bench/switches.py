#!/usr/bin/env python3
"""What two switches of a cluster bring: each on and off, turn by turn.

    switches.py --model DIR [--switches ping-pong,merge] [--profile NAME] [--attention N] [--experts N] [--dispatch KIND]
                [--streams 16,160] [--prompt-tokens 512] [--rounds N]

    ping-pong    --micro-batches 2 against 1: half of a step is at the experts while the other is in attention
    merge        --merge true against false: expert nodes compute rows of different callers together

A cluster with the switch on and one with it off are up at once and take turns, each round the other one first: decode of
--streams at a time, then a prompt for each attention node at once. Prints medians, the median of the rounds' ratios on / off,
and what the switch did by the processes' metrics, for it may have had nothing to do: parts of a step (two where steps were
split, which they are from 64 rows on), and the share of the expert nodes' work that was computed together with other work.
A line of JSON a switch and work.
"""

import argparse
import contextlib
import json
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import streams  # noqa: E402
from atoll_client import api, cluster  # noqa: E402
from load import server_metrics  # noqa: E402

SWITCHES = {
    "ping-pong": {"on": ["--micro-batches", "2"], "off": ["--micro-batches", "1"]},
    "merge": {"on": ["--merge=true"], "off": ["--merge=false"]},
}


def works(flags):
    """{work: function of address, vocab_size, salt -> tokens a second}."""
    def decode(count):
        return lambda address, vocab_size, salt: streams.decode_tokens_per_s(address, count, flags.max_tokens, vocab_size, salt)

    def prompts(address, vocab_size, salt):
        return streams.prompt_tokens_per_s(address, flags.attention, flags.prompt_tokens, vocab_size, salt)

    many = f"{flags.attention} prompts" if flags.attention > 1 else "prompt"
    return {**{f"{count} streams": decode(count) for count in flags.streams}, f"{many} of {flags.prompt_tokens}": prompts}


def moe_layers(model):
    with open(os.path.join(model, "config.json"), encoding="utf-8") as file:
        config = json.load(file)
    frequency = config.get("moe_layer_freq", 1)
    return sum(layer % frequency == 0 for layer in range(config["first_k_dense_replace"], config["num_hidden_layers"]))


class Meter:
    """What the processes of a cluster count while a work runs."""

    def __init__(self, nodes, layers):
        self.layers = layers
        self.urls = server_metrics.urls_of(nodes, "router", "attention", "expert")

    def __enter__(self):
        self.before = server_metrics.scrape(self.urls)
        return self

    def __exit__(self, *_):
        self.served = server_metrics.scrape(self.urls).since(self.before)

    def figures(self):
        calls = self.served.value("atoll_dispatch_call_rows_count")
        steps = self.served.value("atoll_attention_steps_total")
        answered = self.served.value("atoll_expert_calls_total")
        return {"step_parts": calls / (steps * self.layers) if steps else 0.0,
                "merged": self.served.value("atoll_expert_merged_calls_total") / answered if answered else 0.0}


def measure(nodes, work, vocab_size, salt, layers):
    with Meter(nodes, layers) as meter:
        speed = work(nodes.address(), vocab_size, salt)
    return {"tokens_per_s": speed, **meter.figures()}


def turns(name, flags):
    """{work: {"on"/"off": [figures of each round]}}."""
    common = ["--profile", flags.profile, "--context", str(flags.context), "--dispatch", flags.dispatch,
              "--max-running", str(max(flags.streams)), "--max-concurrent-requests", str(max(flags.streams))]
    found = {work: {"on": [], "off": []} for work in works(flags)}
    layers = moe_layers(flags.model)
    with contextlib.ExitStack() as stack:
        # Both are up at once, and idle but for the one whose turn it is.
        clusters = {state: stack.enter_context(cluster.Cluster(1, flags.attention, flags.experts, model=flags.model,
                                                               flags=[*common, *more]))
                    for state, more in SWITCHES[name].items()}
        with api.Client(clusters["on"].address()) as client:
            vocab_size = streams.vocabulary(client)
        for turn in range(flags.rounds):
            for idx, (work, run) in enumerate(works(flags).items()):
                for state in ("on", "off") if turn % 2 == 0 else ("off", "on"):
                    found[work][state].append(measure(clusters[state], run, vocab_size, 100000 * turn + 10000 * idx, layers))
    return found


def report(name, work, rounds, flags):
    row = {"bench": "switches", "switch": name, "work": work, "profile": flags.profile, "dispatch": flags.dispatch,
           "attention": flags.attention, "experts": flags.experts, "rounds": flags.rounds}
    for state, found in rounds.items():
        row[state] = {key: round(streams.median([one[key] for one in found]), 4) for key in found[0]}
    row["ratio"] = round(streams.median([on["tokens_per_s"] / off["tokens_per_s"] for on, off in zip(rounds["on"], rounds["off"])]), 4)
    print(f"{name:10} {work:18} ratio {row['ratio']:.3f}   " + "   ".join(
        f"{state} {row[state]['tokens_per_s']:9.1f} tokens/s, parts of a step {row[state]['step_parts']:.2f}, "
        f"merged {100 * row[state]['merged']:.0f} %" for state in rounds))
    return row


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--switches", default=list(SWITCHES), type=lambda text: text.split(","))
    parser.add_argument("--profile", default="q8")
    parser.add_argument("--attention", type=int, default=2)
    parser.add_argument("--experts", type=int, default=2)
    parser.add_argument("--dispatch", default="inline", choices=("inline", "service"))
    parser.add_argument("--context", type=int, default=2048)
    parser.add_argument("--streams", default=[16, 160], type=lambda text: [int(count) for count in text.split(",")],
                        help="at a time, in all attention nodes together; several with commas")
    parser.add_argument("--prompt-tokens", type=int, default=512)
    parser.add_argument("--max-tokens", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=3)
    flags = parser.parse_args()
    for name in flags.switches:
        if name not in SWITCHES:
            parser.error(f"--switches: expected some of {', '.join(SWITCHES)}, found \"{name}\"")
    if "merge" in flags.switches and flags.attention < 2:
        parser.error("--attention: expected 2 or more, for merge needs several callers")
    for name in flags.switches:
        for work, rounds in turns(name, flags).items():
            print(json.dumps(report(name, work, rounds, flags)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
