#!/usr/bin/env python3
"""Concurrent streams on `atoll serve`, or on a server that is there: TTFT, ITL, TPOT, goodput.

    serve.py --model DIR [--profile NAME] [--rates 1,2,4] [--concurrency N] [--requests N] ...
    serve.py --address HOST:PORT ...

Requests arrive with exponential gaps at each of --rates a second (0: all at once), at most --concurrency at a time.
Prints a row and a line of JSON a rate; exit code 1 if a call failed. With --model and --concurrency 1 it is told too which
share of the machine's read roof the weights of a decoded token take.
"""

import argparse
import json
import os
import random
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import programs  # noqa: E402
import streams  # noqa: E402
from atoll_client import api, cluster  # noqa: E402


def requests_of(flags, vocab_size):
    return [api.ids_request(streams.prompt(i, flags.prompt_tokens, vocab_size), max_tokens=flags.max_tokens,
                            temperature=0, ignore_eos=True) for i in range(flags.requests)]


def stream_share(row, bytes_per_token):
    """Adds what a stream alone reads of its weights, beside the read roof of now."""
    row["roof_gbps"] = programs.read_roof()
    row["gbps"] = round(bytes_per_token / 1e6 / row["tpot_p50_ms"], 3)
    row["share"] = round(row["gbps"] / row["roof_gbps"], 4)
    print(f"{'':16}  decode reads {row['gbps']:.1f} of {row['roof_gbps']:.1f} GB/s ({100 * row['share']:.0f} %)")


def measure(address, flags, bytes_per_token=None):
    with api.Client(address) as client:
        vocab_size = streams.vocabulary(client)
        client.generate(api.ids_request([1, 2, 3], max_tokens=4, temperature=0, ignore_eos=True))
    failed = False
    for rate in flags.rates:
        chance = random.Random(flags.seed)
        starts, at = [], 0.0
        for _ in range(flags.requests):
            starts.append(at)
            at += chance.expovariate(rate) if rate > 0 else 0.0
        results, seconds = streams.run_load(address, requests_of(flags, vocab_size), starts, flags.concurrency)
        row = {"bench": "serve", "rate": rate, "prompt_tokens": flags.prompt_tokens, "max_tokens": flags.max_tokens,
               "concurrency": flags.concurrency,
               **streams.summary(results, seconds, flags.max_ttft_ms / 1000, flags.max_tpot_ms / 1000)}
        print(f"rate {rate or 'all at once':>11}  {row['tokens_per_s']:9.1f} tokens/s  TTFT p50 {row['ttft_p50_ms']:.1f} "
              f"p99 {row['ttft_p99_ms']:.1f} ms  ITL p50 {row['itl_p50_ms']:.2f} p99 {row['itl_p99_ms']:.2f} ms  "
              f"TPOT p50 {row['tpot_p50_ms']:.2f} ms  goodput {row['goodput_per_s']:.2f}/s  failed {row['failed']}")
        if bytes_per_token and row["tpot_p50_ms"] > 0:
            stream_share(row, bytes_per_token)
        print(json.dumps(row))
        for stream in results:
            if stream.error:
                print(f"serve: {stream.error}", file=sys.stderr)
                failed = True
    return 1 if failed else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="checkpoint folder, served by this program")
    parser.add_argument("--profile", default="bf16")
    parser.add_argument("--address", help="a server that is there already")
    parser.add_argument("--rates", default="0", type=lambda text: [float(rate) for rate in text.split(",")],
                        help="requests a second, several with commas; 0: all at once")
    parser.add_argument("--concurrency", type=int, default=16, help="at most so many calls at a time; 0: no limit")
    parser.add_argument("--requests", type=int, default=32)
    parser.add_argument("--prompt-tokens", type=int, default=64)
    parser.add_argument("--max-tokens", type=int, default=32)
    parser.add_argument("--max-ttft-ms", type=float, default=2000, help="goodput counts requests within both limits")
    parser.add_argument("--max-tpot-ms", type=float, default=500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("serve_flags", nargs="*", help="after --: flags of atoll serve")
    flags = parser.parse_args()
    if bool(flags.model) == bool(flags.address):
        parser.error("give one of --model and --address")
    if flags.address:
        return measure(flags.address, flags)
    # Of several streams, or with guesses, how often the weights are read is not known here.
    alone = flags.concurrency == 1 and not any("speculate" in flag for flag in flags.serve_flags)
    bytes_per_token = programs.bytes_per_token(flags.model, flags.profile) if alone else None
    with cluster.Serve(flags.model, ["--profile", flags.profile, *flags.serve_flags]) as server:
        return measure(server.address(), flags, bytes_per_token)


if __name__ == "__main__":
    sys.exit(main())
