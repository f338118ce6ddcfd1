"""The load of a soak: streams without a pause, each answer compared when it ends and then forgotten."""

import random
import threading
import time

import grpc

from harness import api
from streams import Answer, ResumingClient

KEPT_GAP_S = 0.05  # shorter ones are nobody's
JOIN_TIMEOUT_S = 120
HANG_UP_TIMEOUT_S = 20
MAX_SHIFT = 64  # tokens that are looked for as doubled or lost


class Ledger:
    """Counts of all that ended. Thread-safe."""

    def __init__(self, expected):
        self.expected = expected  # ids by request
        self.requests = self.tokens = self.resumed = self.hung_up = 0
        self.lost = self.doubled = self.different = 0
        self.gaps = []  # (begin, end)
        self.problems = []
        self._lock = threading.Lock()

    def add(self, answer):
        gaps = [(begin, end) for begin, end in answer.gaps() if end - begin >= KEPT_GAP_S]
        with self._lock:
            self.requests += 1
            self.tokens += len(answer.tokens)
            self.resumed += len(answer.breaks)
            self.gaps += gaps
            self._compare(answer)

    def add_hung_up(self, request_idx, ids):
        """Tokens of a client that went before the end."""
        with self._lock:
            self.hung_up += 1
            self.tokens += len(ids)
            if ids != self.expected[request_idx][:len(ids)]:
                self._count(f"request {request_idx}, hung up", ids, self.expected[request_idx][:len(ids)])

    def add_problem(self, text):
        with self._lock:
            self.problems.append(text)

    def _compare(self, answer):
        ids, wanted = answer.ids, self.expected[answer.request_idx]
        name = f"request {answer.request_idx}"
        if answer.error is not None:
            self.lost += max(len(wanted) - len(ids), 1)
            self.problems.append(f"{name}: {len(ids)} tokens, then {_describe(answer.error)}")
        elif ids != wanted:
            self._count(name, ids, wanted)
        elif answer.last.usage.generated_tokens != len(ids):
            self.different += 1
            self.problems.append(f"{name}: usage tells of {answer.last.usage.generated_tokens}, found {len(ids)}")

    def _count(self, name, ids, wanted):
        kind, at, count = classify(ids, wanted)
        setattr(self, kind, getattr(self, kind) + count)
        self.problems.append(f"{name}: {len(ids)} tokens, expected {len(wanted)}; {kind} from {at} on: "
                             f"expected {wanted[at:at + 6]}, found {ids[at:at + 6]}")


def classify(ids, wanted):
    """("lost", "doubled" or "different", place, tokens) of ids that are not the wanted ones."""
    at = next((i for i, pair in enumerate(zip(ids, wanted)) if pair[0] != pair[1]), min(len(ids), len(wanted)))
    for shift in range(1, MAX_SHIFT + 1):
        if ids[at:] == wanted[at + shift:]:
            return "lost", at, shift
        if shift <= at and ids[at:] == wanted[at - shift:]:
            return "doubled", at, shift
    if ids == wanted[:at]:
        return "lost", at, len(wanted) - at
    return "different", at, max(len(ids), len(wanted)) - at


class Load:
    """`count` clients, each with one request after another. Use as a context manager."""

    def __init__(self, addresses, requests, count, seed, ledger):
        self.addresses, self.requests, self.ledger = list(addresses), requests, ledger
        self._seed = seed
        self._ending = threading.Event()
        self._clients = [None] * count
        self._answers = [None] * count  # under way
        self._done = [0] * count  # tokens of those that ended
        self._threads = [threading.Thread(target=self._run, args=(i,), daemon=True) for i in range(count)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._ending.set()

    def _run(self, stream):
        order = random.Random(f"{self._seed} {stream}")
        client = self._clients[stream] = ResumingClient(self.addresses, stream)
        while not self._ending.is_set():
            answer = self._answers[stream] = Answer(order.randrange(len(self.requests)))
            client.run(self.requests[answer.request_idx], answer)
            self._answers[stream] = None
            self._done[stream] += len(answer.tokens)
            self.ledger.add(answer)
        client.close()

    def num_tokens(self, stream):
        answer = self._answers[stream]
        return self._done[stream] + (len(answer.tokens) if answer else 0)

    def wait_tokens(self, count, timeout_s):
        """Until each stream has had `count` more."""
        before = [self.num_tokens(i) for i in range(len(self._threads))]
        deadline = time.monotonic() + timeout_s
        for stream, tokens in enumerate(before):
            while self.num_tokens(stream) < tokens + count:
                if time.monotonic() > deadline:
                    raise TimeoutError(f"stream {stream} had {self.num_tokens(stream) - tokens} tokens in "
                                       f"{timeout_s} s, expected {count}")
                time.sleep(0.01)

    def cut(self, streams):
        for stream in streams:
            self._clients[stream].cut()

    def hang_up(self, counts, order):
        """Clients that go after so many tokens: every other one ends its call, the rest their connection. Returns
        when all have gone."""
        threads = []
        for i, count in enumerate(counts):
            arguments = (order.randrange(len(self.requests)), count, order.choice(self.addresses), i % 2 == 0)
            threads.append(threading.Thread(target=self._read_and_go, args=arguments, daemon=True))
            threads[-1].start()
        for thread in threads:
            thread.join(HANG_UP_TIMEOUT_S)

    def _read_and_go(self, request_idx, count, address, cancels):
        ids = []
        with api.Client(address) as client:
            call = client.generate_stream(self.requests[request_idx], timeout=HANG_UP_TIMEOUT_S)
            try:
                while len(ids) < count:
                    ids += next(call).token_ids
            except (grpc.RpcError, StopIteration):  # it has gone for another reason, or read all
                pass
            if cancels:
                call.cancel()
        self.ledger.add_hung_up(request_idx, ids)

    def finish(self):
        """Requests under way are finished; no further ones."""
        self._ending.set()
        deadline = time.monotonic() + JOIN_TIMEOUT_S
        for stream, thread in enumerate(self._threads):
            thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                raise TimeoutError(f"stream {stream} has not ended within {JOIN_TIMEOUT_S} s")


def _describe(error):
    return f"{error.code().name}: {error.details()}" if isinstance(error, grpc.RpcError) else str(error)
