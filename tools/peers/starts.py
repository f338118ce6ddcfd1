"""Where a user waits, in both engines: from the start to the first token, memory, the first token after a long prompt."""

import os
import sys
import time

sys.path[:0] = [os.path.join(os.path.dirname(os.path.abspath(__file__)), up) for up in ("..", "../bench")]

import llama_cpp  # noqa: E402
import streams  # noqa: E402
from atoll_client import api, cluster  # noqa: E402

SPARE = 64  # positions beyond the prompt


def memory_gb(pid, field):
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        return next(int(line.split()[1]) * 1024 / 1e9 for line in file if line.startswith(field + ":"))


def measure(start, first_token, prompt):
    """`start`: () -> a server that is ready; `first_token`: (server, ids) waits for the first token after them."""
    begin = time.monotonic()
    with start() as server:
        first_token(server, prompt[:1])
        found = {"first_token_s": time.monotonic() - begin}
        begin = time.monotonic()
        first_token(server, prompt[1:])  # begins otherwise than the first, so that no cache serves it
        found["ttft_s"] = time.monotonic() - begin
        return found | {"rss_gb": memory_gb(server.pid, "VmRSS"), "peak_gb": memory_gb(server.pid, "VmHWM")}


def _atoll_first_token(server, ids):
    with server.client() as client:
        request = api.ids_request(ids, max_tokens=8, temperature=0, ignore_eos=True)
        for message in client.generate_stream(request, timeout=llama_cpp.CALL_TIMEOUT_S):
            if message.token_ids:
                return
    raise RuntimeError("atoll serve: the stream ended without a token")


def atoll(model, profile, threads, prompt):
    flags = ["--profile", profile, "--threads", str(threads), "--context", str(len(prompt) + SPARE)]
    return measure(lambda: cluster.Serve(model, flags), _atoll_first_token, prompt)


def llama(path, settings, prompt):
    return measure(lambda: llama_cpp.Server(path, settings, len(prompt) + SPARE), llama_cpp.Server.first_token, prompt)


def prompt(tokens, vocab_size):
    """One id, and `tokens` that begin otherwise."""
    return streams.prompt(0, 1, vocab_size) + streams.prompt(1, tokens, vocab_size)
