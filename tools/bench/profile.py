#!/usr/bin/env python3
"""Where the CPU time of `atoll serve` goes while streams are sampled: kernels, sampling, text, gRPC, ...

    profile.py --model DIR [--profile NAME] [--streams N] [--max-tokens N] [--temperature T] [--top-p P] [--frequency HZ]

`perf record` takes samples of the server (event cpu-clock, which virtual machines have too; threads that wait are not seen)
from the beginning of --streams calls to the end of the last one. Each sample counts for the function it fell in, by its
namespace or library: see RULES. Prompts are text where the model has a tokenizer. Prints the shares, the functions at the
top, and a line of JSON. Exit code 77: perf is not here, or may not sample.
"""

import argparse
import collections
import json
import os
import re
import select
import signal
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import streams  # noqa: E402
from atoll_client import api, cluster  # noqa: E402

NOT_HERE = 77
PERF_TIMEOUT_S = 60
EVENT = "cpu-clock:uk"  # the kernel too
WORDS = "cache latent expert router token node memory position gate weight block layer".split()

# (where, function, library), in order; the first that matches has the sample. Functions are demangled.
SAMPLING = r"(Sampler|Philox|FillLogprob|ArgMax|LogSumExp|ExpSum|TopN|TopEntry|kernels::Exp\b)"
RULES = [(where, re.compile(function), re.compile(library)) for where, function, library in (
    ("operating system", r"", r"^\[(kernel|vdso|unknown)|\.ko$"),
    ("allocation", r"^(operator (new|delete)|_?_?(libc_)?(malloc|calloc|realloc|free|cfree)\b|_int_(malloc|free|realloc)|"
                   r"malloc_|unlink_chunk|sysmalloc|tcache_|arena_|systrim)", r""),
    ("gRPC, protobuf", r"", r"lib(grpc|gpr|upb|address_sorting|cares|ssl|crypto|protobuf|z\.|re2)"),
    ("gRPC, protobuf", r"^(\(?non-virtual thunk to )?(grpc|google::protobuf|atollpb)\b", r""),
    ("sampling", SAMPLING, r"^atoll"),
    ("kernels", r"^[^(]*atl::kernels\b|^.*\batl::kernels::\w+::", r"^atoll"),
    ("text", r"atl::text\b|atl::front_door::TextStream", r"^atoll"),
    ("text", r"", r"libpcre2"),
    ("thread pool", r"atl::ThreadPool", r"^atoll"),
    ("dispatch, experts", r"atl::(dispatch|expert|transport)\b", r"^atoll"),
    ("attention engine", r"atl::attention\b", r"^atoll"),
    ("front door", r"atl::(front_door|router|rpc|cluster|metrics|local|cli)\b", r"^atoll"),
    ("other", r"", r""),
)]
PLACES = list(dict.fromkeys(where for where, _, _ in RULES))

# "  7f0c2a atl::kernels::X(float const*)+0x1c (/path/atoll)", without the offset.
SAMPLE = re.compile(r"^\s*([0-9a-f]+)\s+(.*?)(?:\+0x[0-9a-f]+)?\s+\((.*?)\)\s*$")


def place_of(function, library):
    name = os.path.basename(library) if library.startswith("/") else library
    return next(where for where, of_function, of_library in RULES if of_function.search(function) and of_library.search(name))


def samples_of(text):
    """[(place, function)] of what perf script printed, a line a sample."""
    found = []
    for line in text.splitlines():
        match = SAMPLE.match(line)
        if match:
            _, function, library = match.groups()
            found.append((place_of(function, library), function))
    return found


def why_not():
    """Why perf cannot sample here; None: it can."""
    try:
        tried = subprocess.run(["perf", "record", "-e", EVENT, "-o", "/dev/null", "--", "true"], stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, text=True, timeout=PERF_TIMEOUT_S)
    except FileNotFoundError:
        return "perf is not here (Debian: the package linux-perf)"
    return None if tried.returncode == 0 else "perf may not sample here: " + " ".join(tried.stdout.split())


class Perf:
    """Samples of a process, from `start` to the end of the `with`."""

    def __init__(self, pid, frequency, path):
        control, self._control = os.pipe()
        self._answer, answer = os.pipe()
        try:
            self._process = subprocess.Popen(
                ["perf", "record", "-e", EVENT, "-F", str(frequency), "-p", str(pid), "-D", "-1", "--control",
                 f"fd:{control},{answer}", "-o", path], pass_fds=(control, answer), stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        finally:
            os.close(control)
            os.close(answer)

    def __enter__(self):
        return self

    def start(self):
        os.write(self._control, b"enable\n")
        ready, _, _ = select.select([self._answer], [], [], PERF_TIMEOUT_S)
        if not ready or not os.read(self._answer, 16).startswith(b"ack"):
            raise RuntimeError(f"perf record did not begin: exit code {self._process.poll()}")

    def __exit__(self, *_):
        self._process.send_signal(signal.SIGINT)
        try:
            self._process.communicate(timeout=PERF_TIMEOUT_S)
        finally:
            if self._process.poll() is None:
                self._process.kill()
                self._process.wait()
            os.close(self._control)
            os.close(self._answer)


def request(index, flags, vocab_size, with_text):
    fields = {"max_tokens": flags.max_tokens, "temperature": flags.temperature, "top_p": flags.top_p, "seed": index,
              "ignore_eos": True}
    if not with_text:
        return api.ids_request(streams.prompt(index, flags.prompt_tokens, vocab_size), **fields)
    text = " ".join(WORDS[(index + place * (place + 3)) % len(WORDS)] for place in range(flags.prompt_tokens))
    return api.text_request(text, **fields)


def run(flags, path):
    """What perf script says, the load's summary, and the model's vocabulary."""
    with cluster.Serve(flags.model, ["--profile", flags.profile, "--context", str(flags.context)]) as server:
        with server.client() as client:
            vocab_size, with_text = streams.vocabulary(client), streams.has_tokenizer(client)
            streams.raise_errors([streams.run_stream(client, request(flags.streams, flags, vocab_size, with_text))])
        requests = [request(i, flags, vocab_size, with_text) for i in range(flags.streams)]
        with Perf(server.pid, flags.frequency, path) as perf:
            perf.start()
            results, seconds = streams.run_load(server.address(), requests, [0.0] * flags.streams, 0)
        streams.raise_errors(results)
    # While its libraries are where they were.
    script = subprocess.run(["perf", "script", "-i", path, "-F", "ip,sym,symoff,dso"], check=True, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True)
    tokens = sum(len(stream.token_times) for stream in results)
    return script.stdout, {"tokens": tokens, "tokens_per_s": round(tokens / seconds, 2), "vocab_size": vocab_size,
                           "tokenizer": with_text}


def report(samples, load, flags):
    if not samples:
        raise RuntimeError("perf took no sample: ask for more --max-tokens")
    places = collections.Counter(place for place, _ in samples)
    row = {"bench": "profile", "profile": flags.profile, "streams": flags.streams, "temperature": flags.temperature,
           "top_p": flags.top_p, **load, "samples": len(samples),
           "cpu_us_per_token": round(1e6 * len(samples) / flags.frequency / load["tokens"], 2),
           "shares": {place: round(places[place] / len(samples), 5) for place in PLACES}}
    print(f"{flags.streams} streams, {load['tokens']} tokens, vocabulary {load['vocab_size']}, "
          f"{'text' if load['tokenizer'] else 'ids alone: the model has no tokenizer'}; {load['tokens_per_s']:.1f} tokens/s; "
          f"{len(samples)} samples, {row['cpu_us_per_token']:.0f} us of CPU a token")
    for place in PLACES:
        print(f"  {place:18} {100 * row['shares'][place]:6.2f} %   {row['cpu_us_per_token'] * row['shares'][place]:10.1f} us a token")
    print(f"the first {flags.top} functions:")
    for (place, function), count in collections.Counter(samples).most_common(flags.top):
        print(f"  {100 * count / len(samples):6.2f} %  {place:18} {function[:90]}")
    return row


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--profile", default="q8")
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--prompt-tokens", type=int, default=16, help="of text: words")
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--temperature", type=float, default=0.8)
    parser.add_argument("--top-p", type=float, default=0.95)
    parser.add_argument("--context", type=int, default=2048)
    parser.add_argument("--frequency", type=int, default=997, help="samples a second of each core")
    parser.add_argument("--top", type=int, default=12, help="functions to print")
    flags = parser.parse_args()
    reason = why_not()
    if reason:
        print(f"profile: {reason}")
        return NOT_HERE
    with tempfile.TemporaryDirectory(prefix="atoll-profile-") as folder:
        text, load = run(flags, os.path.join(folder, "perf.data"))
    print(json.dumps(report(samples_of(text), load, flags)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
