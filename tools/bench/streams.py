"""Streams of GenerateStream calls and what their clients see of them: used by the benchmarks."""

import os
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))

from atoll_client import api  # noqa: E402

CALL_TIMEOUT_S = 600


class Stream:
    """When its call began and when each of its tokens came (seconds of time.monotonic)."""

    def __init__(self, began):
        self.began = began
        self.token_times = []
        self.error = None

    @property
    def ttft(self):
        return self.token_times[0] - self.began

    @property
    def tpot(self):
        """Mean time between tokens after the first; 0 with one token."""
        times = self.token_times
        return (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else 0.0

    def gaps(self):
        return [b - a for a, b in zip(self.token_times, self.token_times[1:])]


def prompt(index, tokens, vocab_size):
    """Ids that no two prompts share from their first on."""
    return [(3 + index * 104729 + position * 7919) % vocab_size for position in range(tokens)]


def run_stream(client, request):
    stream = Stream(time.monotonic())
    try:
        for message in client.generate_stream(request, timeout=CALL_TIMEOUT_S):
            now = time.monotonic()
            stream.token_times += [now] * len(message.token_ids)
        if not stream.token_times:
            stream.error = "no token came"
    except Exception as error:  # counted and told by the caller
        stream.error = str(error)
    return stream


def run_load(address, requests, start_times, concurrency):
    """Request i begins start_times[i] seconds from now, or as soon as one of `concurrency` clients is free (0: no limit)."""
    results = [None] * len(requests)
    begin = time.monotonic()
    free = threading.Semaphore(concurrency) if concurrency else None

    def one(i, client):
        try:
            results[i] = run_stream(client, requests[i])
        finally:
            if free:
                free.release()

    with api.Client(address) as client:
        threads = []
        for i in range(len(requests)):
            wait = begin + start_times[i] - time.monotonic()
            if wait > 0:
                time.sleep(wait)
            if free:
                free.acquire()
            threads.append(threading.Thread(target=one, args=(i, client)))
            threads[-1].start()
        for thread in threads:
            thread.join()
    return results, time.monotonic() - begin


def quantile(values, q):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))] if ordered else 0.0


def summary(results, seconds, max_ttft_s, max_tpot_s):
    """What vLLM's serving benchmark calls TTFT, ITL, TPOT, throughput and goodput (requests a second within both limits)."""
    good = [stream for stream in results if stream.error is None]
    gaps = [gap for stream in good for gap in stream.gaps()]
    tokens = sum(len(stream.token_times) for stream in good)
    within = [s for s in good if s.ttft <= max_ttft_s and s.tpot <= max_tpot_s]
    milliseconds = {
        "ttft": [stream.ttft for stream in good],
        "itl": gaps,
        "tpot": [stream.tpot for stream in good],
    }
    result = {"requests": len(results), "failed": len(results) - len(good), "seconds": round(seconds, 3),
              "tokens_per_s": round(tokens / seconds, 2), "requests_per_s": round(len(good) / seconds, 3),
              "goodput_per_s": round(len(within) / seconds, 3)}
    for name, values in milliseconds.items():
        for q in (0.5, 0.9, 0.99):
            result[f"{name}_p{round(100 * q)}_ms"] = round(1000 * quantile(values, q), 2)
    return result
