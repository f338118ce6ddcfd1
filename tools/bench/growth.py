#!/usr/bin/env python3
"""What a token costs as the model, the batch, the context and the number of expert nodes grow, one at a time.

    growth.py [--profile NAME] [--tokens N] [--svg FILE]

Random checkpoints of a small DeepSeek-V2-Lite-like shape are written to a temporary folder. Prints a table and a line of
JSON a series, with the slope expected; --svg draws them.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import programs  # noqa: E402
from atoll_client import paths  # noqa: E402

# A quarter of V2-Lite's widths, so that its largest form is written in seconds.
SHAPE = ["hidden_size=512", "intermediate_size=2736", "moe_intermediate_size=352", "vocab_size=8192",
         "num_attention_heads=8", "num_key_value_heads=8", "max_position_embeddings=16384"]
BASE = {"layers": 8, "experts": 64, "nodes": 1, "batch": 16, "context": 128}
SERIES = {
    "layers": ([2, 4, 8, 16], "linear"),
    "experts": ([16, 32, 64, 128, 256], "flat at batch 1 (the same experts are used), the gate grows"),
    "nodes": ([1, 2, 4, 8], "flat: the same work, split"),
    "batch": ([1, 4, 16, 64, 256], "falls, then flat"),
    "context": ([128, 512, 2048, 8192], "linear in attention alone"),
}


def checkpoint(folder, layers, experts):
    path = os.path.join(folder, f"{layers}-{experts}")
    if not os.path.exists(path):
        subprocess.run([paths.binary("atoll"), "make-model", "--preset", "v2-lite", "--layers", str(layers), "--experts",
                        str(experts), "--set", ",".join(SHAPE), "--out", path], check=True, stdout=subprocess.DEVNULL)
    return path


def microseconds_per_token(folder, profile, tokens, point):
    rows = programs.program("decode", "--model", checkpoint(folder, point["layers"], point["experts"]), "--profile", profile,
                            "--batch", str(point["batch"]), "--prompt", str(point["context"]), "--tokens", str(tokens),
                            "--expert-nodes", str(point["nodes"]))
    return 1e6 / rows[-1]["tokens_per_s"]


def svg(series, path):
    """A panel a series: cost over what grows, both logarithmic to the base 2."""
    import math
    width, height, margin = 260, 220, 45
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width * len(series)}" height="{height}" '
             'font-family="sans-serif" font-size="11">', '<rect width="100%" height="100%" fill="white"/>']
    for i, (name, (values, costs)) in enumerate(series.items()):
        low, high = math.log2(min(costs)) - 0.2, math.log2(max(costs)) + 0.2
        first, last = math.log2(values[0]), math.log2(values[-1])

        def place(value, cost):
            x = i * width + margin + (math.log2(value) - first) / (last - first) * (width - 1.4 * margin)
            y = height - margin - (math.log2(cost) - low) / (high - low) * (height - 1.7 * margin)
            return x, y

        points = [place(value, cost) for value, cost in zip(values, costs)]
        parts.append(f'<text x="{i * width + width / 2}" y="16" text-anchor="middle">{name}</text>')
        parts.append('<polyline fill="none" stroke="#1f6feb" stroke-width="2" points="' +
                     " ".join(f"{x:.1f},{y:.1f}" for x, y in points) + '"/>')
        for (x, y), value, cost in zip(points, values, costs):
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="#1f6feb"/>')
            parts.append(f'<text x="{x:.1f}" y="{y - 7:.1f}" text-anchor="middle">{cost:.0f}</text>')
            parts.append(f'<text x="{x:.1f}" y="{height - 20}" text-anchor="middle">{value}</text>')
    parts.append(f'<text x="8" y="{height - 5}">microseconds a token</text></svg>')
    with open(path, "w", encoding="utf-8") as file:
        file.write("\n".join(parts) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", default="q8")
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--svg", help="file to draw the series into")
    flags = parser.parse_args()
    found = {}
    with tempfile.TemporaryDirectory(prefix="atoll-growth-") as folder:
        for name, (values, expected) in SERIES.items():
            costs = []
            for value in values:
                point = {**BASE, name: value}
                if name in ("experts", "context"):
                    point["batch"] = 1
                costs.append(microseconds_per_token(folder, flags.profile, flags.tokens, point))
            found[name] = (values, costs)
            print(f"{name:8} " + "  ".join(f"{v}: {cost:.0f} us" for v, cost in zip(values, costs)) + f"   ({expected})")
            print(json.dumps({"bench": "growth", "series": name, "values": values,
                              "us_per_token": [round(cost, 1) for cost in costs]}))
    if flags.svg:
        svg(found, flags.svg)
    return 0


if __name__ == "__main__":
    sys.exit(main())
