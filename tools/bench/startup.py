#!/usr/bin/env python3
"""Where a user waits: from starting `atoll serve` to the first token, memory, and the first token after a long prompt.

    startup.py --model DIR [--profiles bf16,fp8w,q8,q4] [--prompt-tokens 4096] [--rounds N]

Files come from the page cache (they are read once before). Prints a row and a line of JSON a profile.
"""

import argparse
import json
import os
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import streams  # noqa: E402
from atoll_client import api, cluster  # noqa: E402
from atollpb.v1 import inference_pb2  # noqa: E402


def checkpoint_bytes(folder):
    total = 0
    for name in sorted(os.listdir(folder)):
        if name.endswith(".safetensors"):
            with open(os.path.join(folder, name), "rb") as file:
                while piece := file.read(1 << 24):
                    total += len(piece)
    return total


def memory_bytes(pid, field):
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(field + ":"))


def measure(flags, profile):
    begin = time.monotonic()
    with cluster.Serve(flags.model, ["--profile", profile, "--context", str(flags.prompt_tokens + 64)]) as server:
        with server.client() as client:
            client.generate(api.ids_request([1], max_tokens=1, temperature=0, ignore_eos=True))
            first_token = time.monotonic() - begin
            vocab_size = client.call("ModelService/GetModel", inference_pb2.GetModelRequest()).vocab_size
            request = api.ids_request(streams.prompt(1, flags.prompt_tokens, vocab_size), max_tokens=8, temperature=0,
                                      ignore_eos=True)
            stream = streams.run_stream(client, request)
            if stream.error:
                raise RuntimeError(stream.error)
        return {"first_token_s": first_token, "rss_gb": memory_bytes(server.pid, "VmRSS") / 1e9,
                "peak_gb": memory_bytes(server.pid, "VmHWM") / 1e9, "ttft_s": stream.ttft}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--profiles", default="bf16,fp8w,q8,q4")
    parser.add_argument("--prompt-tokens", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=1)
    flags = parser.parse_args()
    size = checkpoint_bytes(flags.model)
    print(f"checkpoint of {size / 1e9:.2f} GB, in the page cache")
    for profile in flags.profiles.split(","):
        runs = [measure(flags, profile) for _ in range(flags.rounds)]
        row = {name: round(sorted(run[name] for run in runs)[len(runs) // 2], 3) for name in runs[0]}
        print(f"{profile:10} first token {row['first_token_s']:.1f} s after the start   resident {row['rss_gb']:.2f} GB, at "
              f"most {row['peak_gb']:.2f}   first token of a prompt of {flags.prompt_tokens}: {row['ttft_s']:.2f} s")
        print(json.dumps({"bench": "startup", "profile": profile, "checkpoint_gb": round(size / 1e9, 3),
                          "prompt_tokens": flags.prompt_tokens, **row}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
