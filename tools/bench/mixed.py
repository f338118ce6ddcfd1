#!/usr/bin/env python3
"""Decoding streams while long prompts arrive: what the prompts cost the streams, with chunked prefill and without.

    mixed.py --model DIR [--profile NAME] [--chunks default,off,128] [--streams N] [--prompt-tokens N] [--prompts N]
             [--rate R] [--rounds N] [--experts N]

A server for each of --chunks is up at once: `default` as it comes, a number with that --prefill-chunk, `off` with a chunk
and a step as long as the prompt, so that it is computed in one step. In a turn --streams decode, first alone, then while
--prompts arrive one after another, or at --rate a second; servers take turns, and each round begins with another. ITL is
each gap between tokens of a stream: `alone` those before the prompts, `with prompts` those that overlap the time from a
prompt's arrival to its first token. Prints a row and a line of JSON a server. --experts: a cluster of one router, one
attention node and so many expert nodes instead of one process.
"""

import argparse
import contextlib
import json
import os
import random
import sys
import threading

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import streams  # noqa: E402
from atoll_client import api, cluster  # noqa: E402

WARM_UP_TOKENS = 4  # of each stream, before anything is counted


class Decoders:
    """Streams that decode until the end of the `with`, each in a thread."""

    def __init__(self, client, count, context, vocab_size, salt):
        room = context - streams.SHORT_PROMPT
        requests = [api.ids_request(streams.prompt(salt + i, streams.SHORT_PROMPT, vocab_size), max_tokens=room,
                                    temperature=0, ignore_eos=True) for i in range(count)]
        self.streams = [streams.Stream() for _ in requests]
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=stream.run, args=(client, request, lambda _: self._stop.is_set()))
                         for stream, request in zip(self.streams, requests)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def wait_for_more(self, tokens):
        """Until every stream has so many more."""
        wanted = [len(stream.token_times) + tokens for stream in self.streams]
        cluster.wait_until(lambda: self.check_all_run() and
                           all(len(stream.token_times) >= count for stream, count in zip(self.streams, wanted)),
                           streams.CALL_TIMEOUT_S, f"{tokens} more tokens of each stream")

    def check_all_run(self):
        """True. RuntimeError: a stream has ended."""
        streams.raise_errors(self.streams)
        if not all(thread.is_alive() for thread in self._threads):
            raise RuntimeError("a stream was at the end of its context before the prompts were: a larger --context, fewer "
                               "--prompts or fewer --alone-tokens")
        return True


def gaps_within(decoding, begin, end):
    return [b - a for stream in decoding for a, b in zip(stream.token_times, stream.token_times[1:]) if begin <= a and b <= end]


def gaps_over(decoding, spans):
    """Gaps that overlap one of `spans`, (begin, end) each."""
    return [b - a for stream in decoding for a, b in zip(stream.token_times, stream.token_times[1:])
            if any(a < end and b > begin for begin, end in spans)]


def turn(address, flags, vocab_size, salt, found):
    """Adds to `found`: gaps alone and with prompts, times to the prompts' first tokens."""
    requests = [api.ids_request(streams.prompt(salt + 5000 + i, flags.prompt_tokens, vocab_size), max_tokens=1, temperature=0,
                                ignore_eos=True) for i in range(flags.prompts)]
    chance, starts = random.Random(salt), [0.0]
    for _ in requests[1:]:
        starts.append(starts[-1] + (chance.expovariate(flags.rate) if flags.rate else 0.0))
    with api.Client(address) as client, Decoders(client, flags.streams, flags.context, vocab_size, salt) as decoders:
        decoders.wait_for_more(WARM_UP_TOKENS)
        begin = max(stream.token_times[-1] for stream in decoders.streams)
        decoders.wait_for_more(flags.alone_tokens)
        end = min(stream.token_times[-1] for stream in decoders.streams)
        prompts, _ = streams.run_load(address, requests, starts, 0 if flags.rate else 1)
        streams.raise_errors(prompts)
        decoders.wait_for_more(1)  # the gap in which the last prompt ended
    found["alone"] += gaps_within(decoders.streams, begin, end)
    found["with prompts"] += gaps_over(decoders.streams, [(stream.began, stream.token_times[0]) for stream in prompts])
    found["ttft"] += [stream.ttft for stream in prompts]


def chunk_flags(chunk, flags):
    if chunk == "default":
        return []
    if chunk == "off":
        return ["--prefill-chunk", str(flags.prompt_tokens), "--max-step-tokens", str(flags.prompt_tokens + flags.streams)]
    return ["--prefill-chunk", str(int(chunk))]


def start(chunk, flags):
    common = ["--profile", flags.profile, "--context", str(flags.context), *chunk_flags(chunk, flags)]
    if flags.experts:
        return cluster.Cluster(1, 1, flags.experts, model=flags.model, flags=[*common, "--dispatch", "inline"])
    return cluster.Serve(flags.model, common)


def quantiles_ms(seconds):
    return {f"p{round(100 * q)}_ms": round(1000 * streams.quantile(seconds, q), 2) for q in (0.5, 0.99)} | {
        "max_ms": round(1000 * max(seconds), 2), "gaps": len(seconds)}


def report(chunk, found, flags):
    row = {"bench": "mixed", "profile": flags.profile, "experts": flags.experts, "chunk": chunk, "streams": flags.streams,
           "prompt_tokens": flags.prompt_tokens, "rate": flags.rate, "rounds": flags.rounds}
    for name in ("alone", "with prompts"):
        row[name] = quantiles_ms(found[name])
    row["ratio"] = {key: round(row["with prompts"][key] / max(row["alone"][key], 1e-6), 3) for key in ("p50_ms", "p99_ms", "max_ms")}
    row["ttft_p50_ms"] = round(1000 * streams.median(found["ttft"]), 1)
    row["ttft_max_ms"] = round(1000 * max(found["ttft"]), 1)
    for name in ("alone", "with prompts"):
        one = row[name]
        print(f"{'chunk ' + chunk if name == 'alone' else '':14} {name:13} ITL p50 {one['p50_ms']:9.2f}  p99 {one['p99_ms']:9.2f}  "
              f"max {one['max_ms']:9.2f} ms  ({one['gaps']} gaps)")
    print(f"{'':14} {'ratio':13}         {row['ratio']['p50_ms']:9.2f}      {row['ratio']['p99_ms']:9.2f}      "
          f"{row['ratio']['max_ms']:9.2f}     TTFT of the prompts p50 {row['ttft_p50_ms']:.1f}  max {row['ttft_max_ms']:.1f} ms")
    return row


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--profile", default="q8")
    parser.add_argument("--chunks", default="default,off", type=lambda text: text.split(","))
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--prompt-tokens", type=int, default=1024)
    parser.add_argument("--prompts", type=int, default=3, help="a turn")
    parser.add_argument("--rate", type=float, default=0, help="prompts a second; 0: one after another")
    parser.add_argument("--alone-tokens", type=int, default=32, help="of each stream, before the prompts")
    parser.add_argument("--context", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--experts", type=int, default=0, help="0: one process")
    flags = parser.parse_args()
    for chunk in flags.chunks:
        if chunk not in ("default", "off") and not chunk.isdigit():
            parser.error(f"--chunks: expected default, off or a number, found \"{chunk}\"")
    found = {chunk: {"alone": [], "with prompts": [], "ttft": []} for chunk in flags.chunks}
    with contextlib.ExitStack() as stack:
        # All are up at once, and idle but for the one whose turn it is.
        servers = {chunk: stack.enter_context(start(chunk, flags)) for chunk in found}
        with api.Client(servers[flags.chunks[0]].address()) as client:
            vocab_size = streams.vocabulary(client)
        order = list(servers)
        for number in range(flags.rounds):
            for chunk in order:
                turn(servers[chunk].address(), flags, vocab_size, 10000 * number, found[chunk])
            order = order[1:] + order[:1]
    rows = [report(chunk, found[chunk], flags) for chunk in found]
    for row in rows:
        print(json.dumps(row))
    return 0


if __name__ == "__main__":
    sys.exit(main())
