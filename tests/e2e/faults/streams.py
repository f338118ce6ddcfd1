"""Streams over a cluster that meets with faults: every token is recorded with its time and the router it came from.

A client knows all routers, as `atoll`'s own do: a broken stream is continued at the next one with resume_from.
"""

import itertools
import statistics
import threading
import time

import grpc

from support import api

CALL_TIMEOUT_S = 120
PATIENCE_S = 30  # without a token, while servers come back
PAUSE_S = 0.1  # after a round of all routers
JOIN_TIMEOUT_S = 120
# As rpc/channel.cc has them: a stopped router is noticed by its silence, one that is back is asked at once.
CHANNEL_OPTIONS = (("grpc.keepalive_time_ms", 2000), ("grpc.keepalive_timeout_ms", 4000),
                   ("grpc.http2.max_pings_without_data", 0), ("grpc.initial_reconnect_backoff_ms", 50),
                   ("grpc.min_reconnect_backoff_ms", 2000), ("grpc.max_reconnect_backoff_ms", 500))
# With these an answer is asked for elsewhere (cli/api_client.cc).
GOES_ON = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)


class Answer:
    """What one request got."""

    def __init__(self, request_idx):
        self.request_idx = request_idx
        self.began = time.monotonic()
        self.tokens = []  # (time, router's address, id)
        self.first = None  # first message: seed and bias version
        self.last = None  # last message, with finish_reason and usage
        self.breaks = []  # what broke each stream: grpc.RpcError, or ValueError of a channel that was cut
        self.error = None  # what ended it for good

    @property
    def ids(self):
        return [token for _, _, token in self.tokens]

    def add(self, message, address):
        now = time.monotonic()
        self.first = self.first or message
        self.tokens += [(now, address, token) for token in message.token_ids]
        if message.finish_reason:
            self.last = message

    def gaps(self):
        """(begin, end) of each time without a token, that before the first one included."""
        times = [self.began] + [at for at, _, _ in self.tokens]
        return list(zip(times, times[1:]))

    def next_request(self, request):
        if self.first is None:
            return request
        resumed = type(request)()
        resumed.CopyFrom(request)
        resumed.resume_from.ids.extend(self.ids)
        resumed.sampling.seed = self.first.seed
        resumed.bias_version = self.first.bias_version
        return resumed


class ResumingClient:
    """One request at a time."""

    def __init__(self, addresses, first=0):
        self._addresses = addresses
        self._current = first % len(addresses)
        self._client = None
        self._connect()

    def _connect(self):
        """A new channel each time: gRPC's own attempts to connect rest for seconds where no call waits for them."""
        self.close()
        self._client = api.Client(self._addresses[self._current], CHANNEL_OPTIONS)

    def close(self):
        if self._client is not None:
            self._client.__exit__()

    def cut(self):
        """From another thread: the connection goes, and the stream with it."""
        self._client.__exit__()

    def run(self, request, answer):
        progress = time.monotonic()
        for attempt in itertools.count(1):
            before = len(answer.tokens)
            try:
                for message in self._client.generate_stream(answer.next_request(request), timeout=CALL_TIMEOUT_S):
                    answer.add(message, self._client.address)
                if answer.last is not None:
                    return
                answer.error = RuntimeError("the stream ended without a finish reason")
                return
            except (grpc.RpcError, ValueError) as error:
                answer.breaks.append(error)
                if len(answer.tokens) > before:
                    progress = time.monotonic()
                if not _goes_on(error) or time.monotonic() - progress > PATIENCE_S:
                    answer.error = error
                    return
            self._current = (self._current + 1) % len(self._addresses)
            if attempt % len(self._addresses) == 0:
                time.sleep(PAUSE_S)
            self._connect()


class Streams:
    """`count` clients, each with one request after another, until `finish`. Use as a context manager."""

    def __init__(self, addresses, requests, count, once=False):
        self.addresses = list(addresses)
        self.requests = requests
        self.answers = [[] for _ in range(count)]  # of each client
        self.fault_at = None
        self._once = once
        self._ending = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(i,), daemon=True) for i in range(count)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, error_type, *_):
        self._ending.set()
        if error_type is None:
            self.finish()

    def _run(self, stream):
        client = ResumingClient(self.addresses, stream)
        for idx in itertools.count(stream, len(self.answers)):
            answer = Answer(idx % len(self.requests))
            self.answers[stream].append(answer)
            client.run(self.requests[answer.request_idx], answer)
            if self._once or answer.error or self._ending.is_set():
                break
        client.close()

    def all(self):
        return [answer for answers in self.answers for answer in list(answers)]

    def num_tokens(self, stream):
        return sum(len(answer.tokens) for answer in list(self.answers[stream]))

    def wait_tokens(self, count, timeout_s=60):
        """Until each stream has `count` tokens more; streams that have ended count as done."""
        wanted = [self.num_tokens(i) + count for i in range(len(self.answers))]
        deadline = time.monotonic() + timeout_s
        for i, thread in enumerate(self._threads):
            while thread.is_alive() and self.num_tokens(i) < wanted[i]:
                if time.monotonic() > deadline:
                    raise TimeoutError(f"stream {i}: expected {wanted[i]} tokens within {timeout_s} s, "
                                       f"found {self.num_tokens(i)}")
                time.sleep(0.002)

    def wait_quiet(self, quiet_s=0.3, timeout_s=20):
        """Until no stream has had a token for so long."""
        deadline, last, since = time.monotonic() + timeout_s, -1, 0.0
        while last < 0 or time.monotonic() - since < quiet_s:
            total = sum(self.num_tokens(i) for i in range(len(self.answers)))
            if total != last:
                last, since = total, time.monotonic()
            if time.monotonic() > deadline:
                raise TimeoutError(f"tokens still come after {timeout_s} s")
            time.sleep(0.01)

    def fault(self):
        """What comes from now on counts as disturbed."""
        self.fault_at = self.fault_at or time.monotonic()

    def finish(self):
        """Requests under way are finished; no further ones."""
        self._ending.set()
        deadline = time.monotonic() + JOIN_TIMEOUT_S
        for i, thread in enumerate(self._threads):
            thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                raise TimeoutError(f"stream {i} has not ended: {self.num_tokens(i)} tokens")

    def longest_gap(self):
        """Seconds, of the gaps that ended after the fault."""
        return max((end - begin for answer in self.all() for begin, end in answer.gaps() if end >= self.fault_at),
                   default=0.0)

    def usual_gaps(self):
        """(median, longest) before the fault."""
        gaps = [end - begin for answer in self.all() for begin, end in answer.gaps() if end < self.fault_at]
        return (statistics.median(gaps), max(gaps)) if gaps else (0.0, 0.0)

    def problems(self, expected):
        """What is lost, twice or other than `expected` ids by request: one line each."""
        found = []
        for answer in self.all():
            name = f"request {answer.request_idx} at {answer.began:.3f}"
            ids, wanted = answer.ids, expected[answer.request_idx]
            if answer.error is not None:
                found.append(f"{name}: {len(ids)} tokens, then {_describe(answer.error)}")
            elif answer.last is None:
                found.append(f"{name}: {len(ids)} tokens, then nothing")
            elif ids != wanted:
                at = next((i for i, pair in enumerate(zip(ids, wanted)) if pair[0] != pair[1]),
                          min(len(ids), len(wanted)))
                found.append(f"{name}: {len(ids)} tokens, expected {len(wanted)}; other from token {at} on: "
                             f"expected {wanted[at:at + 4]}, found {ids[at:at + 4]}")
            elif answer.last.usage.generated_tokens != len(ids):
                found.append(f"{name}: usage tells of {answer.last.usage.generated_tokens} tokens, found {len(ids)}")
        return found

    def report(self, title):
        answers = self.all()
        median, longest = self.usual_gaps()
        return (f"{title}: {len(self.answers)} streams, {len(answers)} requests, "
                f"{sum(len(answer.tokens) for answer in answers)} tokens, "
                f"{sum(len(answer.breaks) for answer in answers)} resumed; longest gap "
                f"{1000 * self.longest_gap():.0f} ms (before the fault {1000 * longest:.0f}, "
                f"median {1000 * median:.1f})")


def _goes_on(error):
    return isinstance(error, ValueError) or error.code() in GOES_ON


def _describe(error):
    return f"{error.code().name}: {error.details()}" if isinstance(error, grpc.RpcError) else str(error)
