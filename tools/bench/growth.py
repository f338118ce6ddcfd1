#!/usr/bin/env python3
"""What a token, and a dispatch, cost as one thing grows at a time: layers, experts, batch, context, expert nodes.

    growth.py [--series NAME,...] [--profile NAME] [--tokens N] [--rounds N] [--seconds S] [--svg FILE]

Tokens are of random checkpoints of a small DeepSeek-V2-Lite-like shape, written to a temporary folder; dispatches are
dispatch_bench's, with expert nodes that stand in. Prints each series, the slope of its costs (least squares of the
logarithms) beside the one expected, the points more than 25 % above the expectation ("bends"), and a line of JSON; --svg
draws them, the expectation dashed.
"""

import argparse
import dataclasses
import json
import math
import os
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(1, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))

import plot  # noqa: E402
import programs  # noqa: E402
from atoll_client import paths  # noqa: E402

# A quarter of V2-Lite's widths, so that its largest form is written in seconds.
SHAPE = ["hidden_size=512", "intermediate_size=2736", "moe_intermediate_size=352", "vocab_size=8192",
         "num_attention_heads=8", "num_key_value_heads=8", "max_position_embeddings=16384", "bos_token_id=0", "eos_token_id=1"]
BASE = {"layers": 8, "experts": 64, "nodes": 1, "batch": 16, "context": 128}
# V2-Lite's D and top 6 with V3's number of experts; one core gates and combines; a node is a core of its own elsewhere.
DISPATCH = ["--shape", "v2-lite", "--mode", "inline", "--link", "inproc", "--threads", "1"]
NODES = [1, 2, 4, 8, 16, 32, 64]
EXPERTS = [16, 32, 64, 128, 256]
PAIR_US = 1000  # of a stand-in: so much that routing is little beside it even where 64 nodes share the work
LINE = None  # in place of a slope: the straight line through the first and the last point but one
BEND = 1.25


@dataclasses.dataclass(frozen=True)
class Series:
    name: str
    grows: str  # the x axis
    unit: str  # the y axis
    values: list
    slope: float  # expected, of the logarithms
    why: str
    flags: tuple = ()  # of dispatch_bench
    field: str = ""  # of its JSON
    per_row: bool = False


ALL = [
    Series("layers", "layers", "us a token", [2, 4, 8, 16], 1, "each layer as much as the one before"),
    Series("experts", "routed experts of a layer", "us a token at batch 1", EXPERTS, 0,
           "a token uses as many as before; only the gate grows"),
    Series("nodes", "expert nodes in the process", "us a token", [1, 2, 4, 8], 0, "the same work, split"),
    Series("batch", "sequences a step", "us a token", [1, 4, 16, 64, 256], 0, "at most flat: rows share weights"),
    Series("context", "positions in the cache", "us a token at batch 1", [128, 512, 2048, 8192], LINE,
           "attention alone grows, by as much for each position"),
    Series("nodes_64", "expert nodes, the work spread evenly", "us a dispatch", NODES, -1,
           "a node's work falls by their number", ("--experts", "256", "--pair-us", str(PAIR_US), "--even"), "p50_us"),
    Series("nodes_64_as_gated", "expert nodes, the work as the gate and the shared expert have it", "us a dispatch", NODES,
           -1, "the same; the busiest node ends it", ("--experts", "256", "--pair-us", str(PAIR_US)), "p50_us"),
    Series("nodes_64_routing", "expert nodes that answer at once", "us a row", NODES, 0,
           "a row is routed once, wherever its pairs go", ("--experts", "256"), "us_per_row"),
    Series("gate", "routed experts", "us a row", EXPERTS, 1, "at most linear: a score for each expert",
           ("--nodes", "8"), "gate_us", per_row=True),
    Series("routing", "routed experts on 8 nodes that answer at once", "us a row", EXPERTS, LINE,
           "the gate grows, all else is flat", ("--nodes", "8"), "us_per_row"),
]


def expectation(series, costs):
    """From the first cost on, by the slope; or a line."""
    values = series.values
    if series.slope is not LINE:
        return [costs[0] * (value / values[0]) ** series.slope for value in values]
    rise = (costs[-2] - costs[0]) / (values[-2] - values[0])
    return [costs[0] + max(rise, 0.0) * (value - values[0]) for value in values]


def slope(values, costs):
    """Least squares of log(cost) over log(value)."""
    xs, ys = [math.log(value) for value in values], [math.log(cost) for cost in costs]
    x_mean, y_mean = sum(xs) / len(xs), sum(ys) / len(ys)
    return sum((x - x_mean) * (y - y_mean) for x, y in zip(xs, ys)) / sum((x - x_mean) ** 2 for x in xs)


def bends(values, costs, expected):
    """[(value, cost over expectation)] of the points that are too high."""
    return [(value, cost / right) for value, cost, right in zip(values, costs, expected) if cost > BEND * right]


def checkpoint(folder, layers, experts):
    path = os.path.join(folder, f"{layers}-{experts}")
    if not os.path.exists(path):
        subprocess.run([paths.binary("atoll"), "make-model", "--preset", "v2-lite", "--layers", str(layers), "--experts",
                        str(experts), "--set", ",".join(SHAPE), "--out", path], check=True, stdout=subprocess.DEVNULL)
    return path




def token_costs(series, folder, flags):
    costs = []
    for value in series.values:
        point = {**BASE, series.name: value}
        if series.name in ("experts", "context"):
            point["batch"] = 1
        (row,) = programs.program("decode", "--model", checkpoint(folder, point["layers"], point["experts"]), "--profile",
                                  flags.profile, "--batch", str(point["batch"]), "--prompt", str(point["context"]), "--tokens",
                                  str(flags.tokens), "--expert-nodes", str(point["nodes"]))
        costs.append(1e6 / row["tokens_per_s"])
    return costs, {}


def dispatch_costs(series, flags):
    option = "--experts" if series.values is EXPERTS else "--nodes"
    found = programs.program("dispatch", *DISPATCH, "--profile", flags.profile, "--rounds", str(flags.rounds), "--seconds",
                             str(flags.seconds), *series.flags, option, ",".join(map(str, series.values)))
    costs = [row[series.field] / (row["rows"] if series.per_row else 1) for row in found]
    # What the busiest node had, as a multiple of an equal share.
    busiest = [round(row["most_pairs"] * row["nodes"] / row["pairs"], 2) for row in found]
    return costs, {"most_pairs_over_mean": busiest} if option == "--nodes" else {}


def show(series, costs, more):
    """Prints what was found and returns its panel."""
    expected = expectation(series, costs)
    measured_slope, expected_slope = slope(series.values, costs), slope(series.values, expected)
    high = bends(series.values, costs, expected)
    print(f"{series.name}: {series.unit} over {series.grows}")
    print("  " + "  ".join(f"{value}: {plot.cost(cost)}" for value, cost in zip(series.values, costs)))
    print(f"  slope {measured_slope:.2f}, expected {expected_slope:.2f} ({series.why})")
    for name, found in more.items():
        print(f"  {name}: " + "  ".join(f"{value}: {number:g}" for value, number in zip(series.values, found)))
    for value, ratio in high:
        print(f"  bends at {value}: {ratio:.2f} times what is expected")
    print(json.dumps({"bench": "growth", "series": series.name, "unit": series.unit, "values": series.values,
                      "costs": [round(cost, 3) for cost in costs], "expected": [round(cost, 3) for cost in expected],
                      "slope": round(measured_slope, 3), "expected_slope": round(expected_slope, 3),
                      "bends": [value for value, _ in high], **more}), flush=True)
    return plot.panel(f"{series.name}: {series.unit}", series.grows, series.unit, series.values, costs, expected,
                      (f"measured, slope {measured_slope:.2f}", f"expected, {expected_slope:.2f}"))


def chosen(names):
    known = {series.name: series for series in ALL}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise SystemExit(f"growth: no series {', '.join(unknown)}; there are {', '.join(known)}")
    return [known[name] for name in names]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--series", default=",".join(series.name for series in ALL), help="which, by comma; all of them")
    parser.add_argument("--profile", default="q8")
    parser.add_argument("--tokens", type=int, default=24, help="of each measurement of a token")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each dispatch")
    parser.add_argument("--seconds", type=float, default=0.2, help="of each turn")
    parser.add_argument("--svg", help="file to draw the series into")
    flags = parser.parse_args()
    panels = []
    with tempfile.TemporaryDirectory(prefix="atoll-growth-") as folder:
        for series in chosen(flags.series.split(",")):
            costs, more = dispatch_costs(series, flags) if series.field else token_costs(series, folder, flags)
            panels.append(show(series, costs, more))
    if flags.svg:
        with open(flags.svg, "w", encoding="utf-8") as file:
            file.write(plot.sheet(panels))
    return 0


if __name__ == "__main__":
    sys.exit(main())
