#!/usr/bin/env python3
"""Load on a cluster by ghz, unary and streaming: every call must be OK and every answer the one given to it alone.

    load.py [--requests 200] [--concurrency 16] [--routers 2 --attention 2 --experts 4]

Prints p50, p95 and p99 of the calls' times. Exit code 1 if a call failed or an answer differs.
"""

import argparse
import collections
import json
import os
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))

from google.protobuf import json_format  # noqa: E402

from atoll_client import api, cluster, paths  # noqa: E402

QUESTIONS = ["What is MLA?", "What happens when an expert node dies?", "Does the text change when a node fails?",
             "How does the latent cache save memory?", "Are tokens dropped?", "count to ten", "who made you", "Hello"]
TEXTS = ["Multi-head latent attention begins", "When an expert node dies,", "The cluster consists of"]
CALL_TIMEOUT_S = 120


def mixed_requests():
    """Conversations, texts and ids, short and long, greedy and sampled with a seed."""
    requests = [api.chat_request(question, max_tokens=48) for question in QUESTIONS]
    requests += [api.text_request(text, max_tokens=64, temperature=0) for text in TEXTS]
    requests += [api.chat_request(QUESTIONS[i], max_tokens=24 + 8 * i, temperature=0.9, top_p=0.95, seed=1000 + i)
                 for i in range(4)]
    long_prompt = [("user" if i % 2 == 0 else "assistant", text) for i, text in enumerate(QUESTIONS[:7])]
    requests.append(api.chat_request(long_prompt, max_tokens=32))
    requests.append(api.ids_request([0] + list(range(100, 300)), max_tokens=16, temperature=0, ignore_eos=True))
    requests.append(api.text_request(TEXTS[0], max_tokens=20, logprobs=2, temperature=0))
    return requests


def comparable(answer):
    """What may not depend on load: a GenerateResponse as plain data, without id, times and cache hits."""
    data = json_format.MessageToDict(answer, preserving_proto_field_name=True)
    for name in ("request_id", "timings"):
        data.pop(name, None)
    data["usage"].pop("cached_prompt_tokens", None)
    return data


def add_stream_message(answer, message):
    answer.request_id = answer.request_id or message.request_id
    answer.seed = answer.seed or message.seed
    answer.bias_version = answer.bias_version or message.bias_version
    answer.text += message.text
    answer.token_ids.extend(message.token_ids)
    answer.logprobs.extend(message.logprobs)
    answer.prompt_logprobs.extend(message.prompt_logprobs)
    if message.finish_reason:
        answer.finish_reason = message.finish_reason
        answer.usage.CopyFrom(message.usage)


def logged_answers(debug_log, streaming):
    """GenerateResponses that ghz has logged, in any order. A worker makes one call after another."""
    messages = paths_messages()
    answers, open_streams = [], {}
    with open(debug_log, encoding="utf-8") as file:
        for line in file:
            entry = json.loads(line)
            response = entry.get("response")
            if not streaming and entry.get("message", entry.get("msg")) == "Received response":
                answers.append(json_format.Parse(response, messages.GenerateResponse()))
            elif streaming and entry.get("message", entry.get("msg")) == "Receive message" and response:
                text = response if isinstance(response, str) else json.dumps(response)
                message = json_format.Parse(text, messages.GenerateStreamResponse())
                answer = open_streams.setdefault(entry["workerID"], messages.GenerateResponse())
                add_stream_message(answer, message)
                if message.finish_reason:
                    answers.append(open_streams.pop(entry["workerID"]))
    return answers


def paths_messages():
    from atollpb.v1 import inference_pb2
    return inference_pb2


def run_ghz(address, method, requests, arguments, folder):
    """ghz's report, and the answers it has logged."""
    data_path, report_path, log_path = (os.path.join(folder, f"{method}.{end}") for end in ("data", "json", "log"))
    data = []
    for i, request in enumerate(requests):
        entry = json_format.MessageToDict(request)
        entry["requestId"] = f"load-{i}-{{{{.RequestNumber}}}}"
        data.append(entry)
    with open(data_path, "w", encoding="utf-8") as file:
        json.dump(data, file)
    subprocess.run([
        os.path.join(paths.BUILD, "tools", "ghz"), "--insecure", "--call", f"atollpb.v1.InferenceService.{method}",
        "--data-file", data_path, "--total", str(arguments.requests), "--concurrency", str(arguments.concurrency),
        "--timeout", f"{CALL_TIMEOUT_S}s", "--format", "json", "--output", report_path, "--debug", log_path, address
    ], check=True)
    with open(report_path, encoding="utf-8") as file:
        report = json.load(file)
    return report, logged_answers(log_path, streaming=method == "GenerateStream")


def check(report, answers, expected, num_requests):
    """Problems, as texts."""
    problems = []
    if report["statusCodeDistribution"] != {"OK": num_requests}:
        problems.append(f"status codes: expected {num_requests} OK, found {report['statusCodeDistribution']}")
    if len(answers) != num_requests:
        problems.append(f"answers in the log: expected {num_requests}, found {len(answers)}")
    seen = collections.Counter()
    for answer in answers:
        idx = int(answer.request_id.split("-")[1])
        seen[idx] += 1
        found = comparable(answer)
        # Where the request has no seed the server chooses one, which a greedy answer does not depend on.
        seedless = expected[idx][1]
        wanted = expected[idx][0]
        if seedless:
            found, wanted = ({k: v for k, v in d.items() if k != "seed"} for d in (found, wanted))
        if found != wanted:
            problems.append(f"request {idx}: alone {wanted}, under load {found}")
    if len(seen) != min(len(expected), num_requests):
        problems.append(f"requests answered: expected {len(expected)} kinds, found {len(seen)}")
    return problems


def percentiles(report):
    by_share = {entry["percentage"]: entry["latency"] / 1e6 for entry in report["latencyDistribution"]}
    return ", ".join(f"p{share} {by_share[share]:.0f} ms" for share in (50, 95, 99))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--routers", type=int, default=2)
    parser.add_argument("--attention", type=int, default=2)
    parser.add_argument("--experts", type=int, default=4)
    arguments = parser.parse_args()

    requests = mixed_requests()
    problems = []
    with tempfile.TemporaryDirectory() as folder, cluster.Cluster(arguments.routers, arguments.attention,
                                                                  arguments.experts) as nodes:
        print(f"cluster: {arguments.routers} routers, {arguments.attention} attention nodes, {arguments.experts} "
              f"expert nodes; {arguments.requests} requests of {len(requests)} kinds, {arguments.concurrency} at once")
        with nodes.client() as client:
            expected = [(comparable(client.generate(request, CALL_TIMEOUT_S)), not request.sampling.HasField("seed"))
                        for request in requests]
        for method in ("Generate", "GenerateStream"):
            report, answers = run_ghz(nodes.address(), method, requests, arguments, folder)
            found = check(report, answers, expected, arguments.requests)
            print(f"{method}: {report['count']} calls, {report['rps']:.1f} a second, {percentiles(report)}; "
                  f"{len(answers)} answers compared, {len(found)} problems")
            problems += found
    for problem in problems[:20]:
        print(problem)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
