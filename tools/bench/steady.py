#!/usr/bin/env python3
"""Mixed load on a cluster for minutes: does memory stay flat, and the time between tokens?

    steady.py --model DIR [--minutes 10] [--profile NAME] [--routers N] [--attention N] [--experts N] [--streams N]
              [--max-growth-percent 2] [--max-growth-mib 8] [--max-drift-percent 20]

--streams callers make one call after another: short and long prompts, greedy and sampled, some hung up by the client, some
with stop strings (with a tokenizer), some that begin like others before them; the same of each kind in every twenty calls,
in an order that --seed gives. Every --interval seconds a row: calls, ITL of the window's tokens, latent cache, resident
memory of each process. At the end, for each process, how much it has grown since --warm-up-minutes; by how much the median
ITL differs between the first and the last third; what is left in use. Exit code 1: a call failed, a process ended or grew by
more than both bounds together, ITL drifted, or cache blocks were not given back. Other load than this, for minutes:
./dev load soak (rates, by ghz), ./dev soak (faults).
"""

import argparse
import array
import collections
import json
import os
import random
import sys
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import streams  # noqa: E402
from atoll_client import api, cluster  # noqa: E402
from load import kinds, server_metrics  # noqa: E402

BLOCK = 64  # positions of a cache block
SAMPLED = {"temperature": 0.8, "top_p": 0.95}
# Of twenty calls. "like": begins as every other of its kind, so that the prefix cache has it.
MIX = {"greedy": 6, "sampled": 5, "long": 2, "long sampled": 2, "hung up": 2, "stop": 2, "like": 1}
STOPS = [" the", ". ", "e", "\n"]
GIVEN_BACK_TIMEOUT_S = 30
MIB = 1 << 20


class Requests:
    """Calls in an order given by a seed: (kind, request, tokens after which the client hangs up or None). Thread-safe."""

    def __init__(self, flags, vocab_size, with_text):
        self._flags, self._vocab_size, self._with_text = flags, vocab_size, with_text
        self._chance = random.Random(flags.seed)
        self._left, self._count = [], 0
        self._lock = threading.Lock()

    def next(self):
        with self._lock:
            if not self._left:
                self._left = [kind for kind, share in MIX.items() for _ in range(share)]
                self._chance.shuffle(self._left)
            self._count += 1
            return self._make(self._left.pop(), self._count)

    def _make(self, kind, number):
        chance, long = self._chance, kind.startswith("long")
        tokens = self._flags.long_tokens if long else chance.randint(4, 64)
        ids = streams.prompt(number, tokens, self._vocab_size)
        if kind == "like":
            ids = streams.prompt(0, 2 * BLOCK, self._vocab_size) + ids
        fields = {"max_tokens": chance.randint(8, self._flags.max_tokens), "ignore_eos": True, "temperature": 0}
        if "sampled" in kind or (kind == "stop" and number % 2):
            fields.update(SAMPLED, seed=number)
        if kind == "stop":
            fields.update({"stop": STOPS} if self._with_text else {"stop_token_ids": range(0, self._vocab_size, 1 + self._vocab_size // 64)})
        hang_up = chance.randint(1, fields["max_tokens"] - 1) if kind == "hung up" else None
        return kind, api.ids_request(ids, **fields), hang_up


class Windows:
    """ITL in seconds by windows of time, and calls by kind. Thread-safe."""

    def __init__(self, interval_s):
        self.begin, self._interval_s = time.monotonic(), interval_s
        self._gaps = collections.defaultdict(lambda: array.array("d"))
        self._calls, self._errors = collections.Counter(), []
        self._lock = threading.Lock()

    def add_gap(self, at, gap):
        with self._lock:
            self._gaps[int((at - self.begin) / self._interval_s)].append(gap)

    def add_call(self, kind, error):
        with self._lock:
            self._calls[kind] += 1
            if error:
                self._errors.append(f"{kind}: {error}")

    def calls(self):
        with self._lock:
            return dict(self._calls), list(self._errors)

    def gaps(self, first, last):
        """Of windows first to last - 1, sorted."""
        with self._lock:
            return sorted(gap for window in range(first, last) for gap in self._gaps.get(window, ()))


class Load:
    """Callers until the end of the `with`."""

    def __init__(self, addresses, requests, windows, count):
        self._requests, self._windows, self._stop = requests, windows, threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(addresses[i % len(addresses)],)) for i in range(count)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self, address):
        with api.Client(address) as client:
            while not self._stop.is_set():
                kind, request, hang_up = self._requests.next()
                stream, counted = streams.Stream(), 0

                def take(stream, hang_up=hang_up):
                    nonlocal counted
                    times = stream.token_times
                    for i in range(max(counted, 1), len(times)):
                        self._windows.add_gap(times[i], times[i] - times[i - 1])
                    counted = len(times)
                    return hang_up is not None and counted >= hang_up

                stream.run(client, request, take)
                self._windows.add_call(kind, stream.error)


class Watch:
    """Resident memory and latent cache of a cluster's processes."""

    def __init__(self, nodes):
        self._nodes = nodes
        self._urls = server_metrics.urls_of(nodes, "attention")
        self.pids = self._pids()
        self.samples = []  # (seconds since the beginning, {process: bytes}, {state: blocks})

    def _pids(self):
        return {"cluster": self._nodes.pid, **{entry["name"]: entry["pid"] for entry in self._nodes.processes()}}

    def blocks(self):
        return server_metrics.scrape(self._urls).by_label("atoll_attention_cache_blocks", "state")

    def sample(self, seconds):
        sizes = {name: kinds.resident_bytes(pid) for name, pid in self.pids.items()}
        self.samples.append((seconds, sizes, self.blocks()))
        return self.samples[-1]

    def problems(self):
        """Processes that ended, whether or not others took their places."""
        now = self._pids()
        return [f"{name}: process {pid} ended" for name, pid in self.pids.items() if now.get(name) != pid]

    def growth(self, warm_up_s):
        """{process: (bytes at the end of the warm-up, bytes at the end)}."""
        base = next((sizes for seconds, sizes, _ in self.samples if seconds >= warm_up_s), self.samples[-1][1])
        return {name: (base[name], self.samples[-1][1][name]) for name in self.pids}


def print_window(windows, number, sample):
    seconds, sizes, blocks = sample
    gaps = windows.gaps(number, number + 1)
    calls, errors = windows.calls()
    row = {"bench": "steady", "seconds": round(seconds, 1), "calls": sum(calls.values()), "errors": len(errors),
           "itl_p50_ms": round(1000 * streams.quantile(gaps, 0.5), 3), "itl_p99_ms": round(1000 * streams.quantile(gaps, 0.99), 3),
           "gaps": len(gaps), "blocks": {state: int(count) for state, count in blocks.items()},
           "rss_mib": {name: round(size / MIB, 2) for name, size in sizes.items()}}
    print(f"{row['seconds']:7.1f} s  {row['calls']:6} calls  ITL p50 {row['itl_p50_ms']:8.2f} p99 {row['itl_p99_ms']:8.2f} ms  blocks "
          + " ".join(f"{state} {count}" for state, count in sorted(row["blocks"].items()))
          + "  MiB " + " ".join(f"{name} {size:.1f}" for name, size in row["rss_mib"].items()))
    print(json.dumps(row), flush=True)


def drift(windows, count):
    """Median ITL of the last third of the windows over the first third's, less 1; and both, in seconds."""
    third = max(count // 3, 1)
    first, last = (streams.quantile(windows.gaps(*span), 0.5) for span in ((0, third), (count - third, count)))
    return (last / first - 1 if first else 0.0), first, last


def verdict(flags, windows, watch, count):
    """The last row; and what is wrong, as texts."""
    calls, errors = windows.calls()
    problems = errors + watch.problems()
    row = {"bench": "steady", "end": True, "profile": flags.profile, "minutes": flags.minutes, "streams": flags.streams,
           "routers": flags.routers, "attention": flags.attention, "experts": flags.experts, "calls": calls,
           "errors": len(errors), "growth": {}}
    for name, (base, end) in watch.growth(60 * flags.warm_up_minutes).items():
        bound = flags.max_growth_percent / 100 * base + flags.max_growth_mib * MIB
        row["growth"][name] = {"from_mib": round(base / MIB, 2), "to_mib": round(end / MIB, 2),
                               "percent": round(100 * (end / base - 1), 3) if base else None}
        print(f"  {name:12} {base / MIB:9.2f} MiB after {flags.warm_up_minutes:g} minutes, {end / MIB:9.2f} at the end: "
              f"{(end - base) / MIB:+.2f} MiB, {100 * (end / base - 1) if base else 0:+.2f} %")
        if end - base > bound:
            problems.append(f"{name}: grew by {(end - base) / MIB:.2f} MiB, expected at most {bound / MIB:.2f}")
    share, first, last = drift(windows, count)
    row.update(itl_drift_percent=round(100 * share, 2), itl_p50_first_ms=round(1000 * first, 3), itl_p50_last_ms=round(1000 * last, 3))
    print(f"  ITL p50 {1000 * first:.2f} ms in the first third, {1000 * last:.2f} in the last: {100 * share:+.1f} %")
    if abs(100 * share) > flags.max_drift_percent:
        problems.append(f"ITL p50 drifted by {100 * share:.1f} %, expected at most {flags.max_drift_percent:g}")
    print("  calls: " + ", ".join(f"{kind} {number}" for kind, number in calls.items()) + f"; {len(errors)} errors")
    return row, problems


def given_back(watch):
    """Problems: blocks that are still in use after the last call."""
    try:
        cluster.wait_until(lambda: watch.blocks().get("used") == 0, GIVEN_BACK_TIMEOUT_S, "all cache blocks given back")
        return []
    except TimeoutError as error:
        return [f"{error}: {watch.blocks()}"]


def soak(nodes, flags):
    with nodes.client() as client:
        vocab_size, with_text = streams.vocabulary(client), streams.has_tokenizer(client)
    addresses = [nodes.address(i) for i in range(flags.routers)]
    watch, windows, count = Watch(nodes), Windows(flags.interval), max(round(60 * flags.minutes / flags.interval), 3)
    with Load(addresses, Requests(flags, vocab_size, with_text), windows, flags.streams):
        for number in range(count):
            time.sleep(max(0.0, windows.begin + (number + 1) * flags.interval - time.monotonic()))
            print_window(windows, number, watch.sample(time.monotonic() - windows.begin))
    left = given_back(watch)
    row, problems = verdict(flags, windows, watch, count)
    problems += left
    print(json.dumps({**row, "problems": problems}))
    for problem in problems:
        print(f"steady: {problem}", file=sys.stderr)
    return 1 if problems else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--profile", default="q8")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--warm-up-minutes", type=float, default=2)
    parser.add_argument("--interval", type=float, default=10, help="seconds of a window")
    parser.add_argument("--routers", type=int, default=1)
    parser.add_argument("--attention", type=int, default=1)
    parser.add_argument("--experts", type=int, default=2)
    parser.add_argument("--dispatch", default="inline", choices=("inline", "service"))
    parser.add_argument("--streams", type=int, default=8, help="calls at a time")
    parser.add_argument("--long-tokens", type=int, default=512, help="of a long prompt")
    parser.add_argument("--max-tokens", type=int, default=48, help="of an answer")
    parser.add_argument("--cache-blocks", type=int, default=0,
                        help="of an attention node; 0: as many as the callers can hold, for the cache's filling is growth too")
    parser.add_argument("--max-growth-percent", type=float, default=2, help="a process may grow by this and --max-growth-mib")
    parser.add_argument("--max-growth-mib", type=float, default=8)
    parser.add_argument("--max-drift-percent", type=float, default=20, help="of the median ITL, up or down")
    parser.add_argument("--seed", type=int, default=1)
    flags = parser.parse_args()
    if flags.warm_up_minutes >= flags.minutes:
        parser.error(f"--warm-up-minutes {flags.warm_up_minutes:g}: expected less than --minutes, {flags.minutes:g}")
    longest = max(flags.long_tokens, 3 * BLOCK) + flags.max_tokens
    blocks = flags.cache_blocks or flags.streams * (longest // BLOCK + 1)
    with cluster.Cluster(flags.routers, flags.attention, flags.experts, model=flags.model,
                         flags=["--profile", flags.profile, "--context", str(longest), "--dispatch", flags.dispatch,
                                "--cache-blocks", str(blocks)]) as nodes:
        return soak(nodes, flags)


if __name__ == "__main__":
    sys.exit(main())
