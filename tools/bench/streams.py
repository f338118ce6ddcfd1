"""Streams of GenerateStream calls and what their clients see of them: used by the benchmarks."""

import os
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))

import grpc  # noqa: E402

from atoll_client import api  # noqa: E402
from atollpb.v1 import inference_pb2  # noqa: E402

CALL_TIMEOUT_S = 600
SHORT_PROMPT = 16  # tokens before those that a decode benchmark counts


class Stream:
    """When its call began and when each of its tokens came (seconds of time.monotonic)."""

    def __init__(self):
        self.began = time.monotonic()
        self.token_times = []
        self.error = None
        self.given_up = False  # by its client

    def run(self, client, request, give_up=None):
        """Makes the call. give_up: asked after each message with this stream; true cancels the call, which is no error."""
        self.began = time.monotonic()
        try:
            call, finished = client.generate_stream(request, timeout=CALL_TIMEOUT_S), False
            for message in call:
                now = time.monotonic()
                self.token_times += [now] * len(message.token_ids)
                finished = finished or bool(message.finish_reason)
                if give_up and give_up(self):
                    self.given_up = True
                    call.cancel()
                    return
            if not finished:
                self.error = f"the stream ended after {len(self.token_times)} tokens without a finish_reason"
        except Exception as error:  # counted and told by the caller
            self.error = str(error)

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


def vocabulary(client):
    return client.call("ModelService/GetModel", inference_pb2.GetModelRequest()).vocab_size


def has_tokenizer(client):
    try:
        client.call("ModelService/Tokenize", inference_pb2.TokenizeRequest(text="a"))
        return True
    except grpc.RpcError as error:
        if error.code() != grpc.StatusCode.FAILED_PRECONDITION:
            raise
        return False


def run_stream(client, request):
    stream = Stream()
    stream.run(client, request)
    if stream.error is None and not stream.token_times:
        stream.error = "no token came"
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


def raise_errors(results):
    for stream in results:
        if stream.error:
            raise RuntimeError(stream.error)


def run_together(address, count, prompt_tokens, max_tokens, vocab_size, salt):
    """`count` greedy streams at once, with prompts of their own for each `salt`. RuntimeError: a call failed."""
    requests = [api.ids_request(prompt(salt + i, prompt_tokens, vocab_size), max_tokens=max_tokens, temperature=0,
                                ignore_eos=True) for i in range(count)]
    results, _ = run_load(address, requests, [0.0] * count, 0)
    raise_errors(results)
    return results


def prompt_tokens_per_s(address, count, prompt_tokens, vocab_size, salt):
    results = run_together(address, count, prompt_tokens, 1, vocab_size, salt)
    begin = min(stream.began for stream in results)
    return count * prompt_tokens / (max(stream.token_times[0] for stream in results) - begin)


def decode_tokens_per_s(address, count, max_tokens, vocab_size, salt):
    """From when every stream has its first token to when the first has its last: all are decoding."""
    results = run_together(address, count, SHORT_PROMPT, max_tokens, vocab_size, salt)
    begin = max(stream.token_times[0] for stream in results)
    end = min(stream.token_times[-1] for stream in results)
    tokens = sum(1 for stream in results for at in stream.token_times if begin < at <= end)
    if tokens == 0:
        raise RuntimeError(f"--max-tokens {max_tokens}: the first of {count} streams ended before all had begun; ask for more")
    return tokens / (end - begin)


def median(values):
    return sorted(values)[len(values) // 2]


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
    result = {"requests": len(results), "failed": len(results) - len(good), "tokens": tokens, "seconds": round(seconds, 3),
              "tokens_per_s": round(tokens / seconds, 2), "requests_per_s": round(len(good) / seconds, 3),
              "goodput_per_s": round(len(within) / seconds, 3)}
    for name, values in milliseconds.items():
        for q in (0.5, 0.9, 0.99):
            result[f"{name}_p{round(100 * q)}_ms"] = round(1000 * quantile(values, q), 2)
    return result
