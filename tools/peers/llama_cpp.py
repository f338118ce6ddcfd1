"""llama.cpp as `./dev bench peers` builds it: its tools as functions, and its server.

Two builds lie in the build folder's peers/: openmp/ with everything, and threads/ with the libraries alone, which compute
with llama.cpp's own thread pool instead of OpenMP and take the place of the others by LD_LIBRARY_PATH.
"""

import dataclasses
import http.client
import json
import os
import socket
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))

from atoll_client import cluster, paths  # noqa: E402

FOLDER = os.path.join(paths.BUILD, "peers")
START_TIMEOUT_S = 300
CALL_TIMEOUT_S = 1800
BATCH = 2048  # -b: tokens handed over at a time, computed -ub at a time


@dataclasses.dataclass(frozen=True)
class Settings:
    """What llama.cpp lets a user choose and this machine could be faster with."""
    threads: int
    threading: str = "openmp"  # or "threads"
    flash_attn: str = "on"
    repack: bool = True
    load: str = "mmap"  # or "none": read into memory
    ubatch: int = 512
    unified: bool = False  # one cache for all sequences; with several only

    def __str__(self):
        return (f"-t {self.threads} -fa {self.flash_attn} -ub {self.ubatch}{'' if self.repack else ' --no-repack'}"
                f"{'' if self.load == 'mmap' else ' -lm ' + self.load}{' -kvu' if self.unified else ''}, {self.threading}")

    def environment(self):
        return {} if self.threading == "openmp" else {"LD_LIBRARY_PATH": built("threads", "bin")}

    def common_flags(self):
        """Of the tools that share llama.cpp's flags: all but llama-bench."""
        return ["-t", str(self.threads), "-fa", self.flash_attn, "-b", str(BATCH), "-ub", str(self.ubatch),
                "-lm", self.load, "--repack" if self.repack else "--no-repack", "-kvu" if self.unified else "-no-kvu"]


def built(*names):
    path = os.path.join(FOLDER, *names)
    if not os.path.exists(path):
        raise FileNotFoundError(f"{path}: ./dev bench peers builds it")
    return path


def binary(name):
    return built("openmp", "bin", name)


def run(name, arguments, environment=None):
    """Its standard output; RuntimeError with what it said if it fails."""
    ended = subprocess.run([binary(name), *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                           stderr=subprocess.PIPE, text=True, errors="replace", timeout=CALL_TIMEOUT_S,
                           env={**os.environ, **(environment or {})}, check=False)
    if ended.returncode != 0:
        raise RuntimeError(f"{name} {' '.join(arguments)} ended with {ended.returncode}:\n{ended.stderr[-4000:]}")
    return ended.stdout


def quantize(source, target, kind):
    """All matrices in `kind`, but for the gates; by default q4_0 would give the head more bits."""
    run("llama-quantize", ["--pure", source, target, kind])


def rows(output):
    return [json.loads(line) for line in output.splitlines() if line.startswith("{")]


def bench(path, settings, flags):
    """llama-bench: its rows."""
    return rows(run("llama-bench", [
        "-m", path, "-t", str(settings.threads), "-fa", settings.flash_attn, "-b", str(BATCH), "-ub",
        str(settings.ubatch), "--repack", str(int(settings.repack)), "-lm", settings.load, "-r", "1", "-o", "jsonl", *flags
    ], settings.environment()))


def decode(path, settings, prompt, tokens):
    """Tokens a second of one sequence after `prompt` tokens."""
    (row,) = bench(path, settings, ["-p", "0", "-n", str(tokens), "-d", str(prompt)])
    return row["avg_ts"]


def prefill(path, settings, lengths, warm_up):
    """{length: tokens a second}; a prompt of `warm_up` tokens comes before."""
    flags = ["--no-warmup", "-n", "0", "-p", ",".join(str(n) for n in [warm_up, *lengths])]
    found = bench(path, settings, flags)
    if [row["n_prompt"] for row in found] != [warm_up, *lengths]:
        raise RuntimeError(f"llama-bench gave {[row['n_prompt'] for row in found]}, expected {[warm_up, *lengths]}")
    return {row["n_prompt"]: row["avg_ts"] for row in found[1:]}


def streams(path, settings, count, prompt, tokens):
    """Tokens a second of `count` sequences together, each after a prompt of its own."""
    output = run("llama-batched-bench", [
        "-m", path, *settings.common_flags(), "-c", str(count * (prompt + tokens + 64)), "-npp", str(prompt), "-ntg",
        str(tokens), "-npl", str(count), "--output-format", "jsonl"
    ], settings.environment())
    (row,) = rows(output)
    return row["speed_tg"]


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


class Server(cluster.Process):
    """llama-server with one slot; returns from the constructor when it is ready. Use as a context manager."""

    def __init__(self, path, settings, context, flags=()):
        self.port = free_port()
        super().__init__([
            binary("llama-server"), "-m", path, *settings.common_flags(), "-c", str(context), "-np", "1", "--cache-ram",
            "0", "--host", "127.0.0.1", "--port", str(self.port), *flags
        ], settings.environment())
        try:
            cluster.wait_until(self._is_ready, START_TIMEOUT_S, "llama-server")
        except BaseException as error:
            self.__exit__(type(error), error, None)
            raise

    def _is_ready(self):
        if self.process.poll() is not None:
            raise RuntimeError(f"llama-server ended with code {self.process.returncode}")
        try:
            return self._call("GET", "/health", None).status == 200
        except OSError:
            return False

    def _call(self, method, path, body):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=CALL_TIMEOUT_S)
        connection.request(method, path, body and json.dumps(body), {"Content-Type": "application/json"})
        return connection.getresponse()

    def _completion(self, prompt, fields):
        response = self._call("POST", "/completion", {"prompt": prompt, **fields})
        if response.status != 200:
            raise RuntimeError(f"llama-server: {response.status} {response.read()[:500]}")
        return response

    def generate(self, prompt, tokens):
        """Greedy ids, fewer if they end."""
        fields = {"n_predict": tokens, "temperature": 0, "return_tokens": True}
        return json.load(self._completion(prompt, fields))["tokens"]

    def first_token(self, prompt):
        """Waits for the first token of a stream, and drops the rest."""
        # More than one: what is no whole character yet is not sent.
        fields = {"n_predict": 8, "temperature": 0, "stream": True, "return_tokens": True, "ignore_eos": True}
        response = self._completion(prompt, fields)
        for line in response:
            if line.startswith(b"data:") and json.loads(line[len(b"data:"):]).get("tokens"):
                response.close()
                return
        raise RuntimeError("llama-server: the stream ended without a token")

    def logprobs(self, prompt, count):
        """{id: log-probability} of the `count` most likely next tokens."""
        fields = {"n_predict": 1, "temperature": 0, "n_probs": count, "cache_prompt": True}
        (token,) = json.load(self._completion(prompt, fields))["completion_probabilities"]
        return {top["id"]: top["logprob"] for top in token["top_logprobs"]}
