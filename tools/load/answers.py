"""Load by ghz, unary and streaming: every call must be OK and every answer the one given to it alone.

Answers are read from ghz's debug log, which drops lines: of each kind it writes the first 100 a second. Unary calls are
therefore limited to 90 a second. Streams log a line a message, so they run twice: once at full speed, where statuses are
checked and times taken, and once with an own ghz for each concurrent client, one call a second each, where all answers
are compared.
"""

import json
import os

from google.protobuf import json_format, text_format

from atoll_client import api
from atollpb.v1 import inference_pb2
from load import ghz

QUESTIONS = ["What is MLA?", "What happens when an expert node dies?", "Does the text change when a node fails?",
             "How does the latent cache save memory?", "Are tokens dropped?", "count to ten", "who made you", "Hello"]
TEXTS = ["Multi-head latent attention begins", "When an expert node dies,", "The cluster consists of"]
CALL_TIMEOUT_S = 120


def mixed_requests():
    """Conversations, texts and ids, short and long, greedy and sampled with a seed. At most 48 tokens, so that two streams
    in one second stay under ghz's 100 lines."""
    requests = [api.chat_request(question, max_tokens=48) for question in QUESTIONS]
    requests += [api.text_request(text, max_tokens=48, temperature=0) for text in TEXTS]
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
    answers, open_streams = [], {}
    with open(debug_log, encoding="utf-8") as file:
        for line in file:
            entry = json.loads(line)
            if not streaming and entry["message"] == "Received response":
                answers.append(json_format.Parse(entry["response"], inference_pb2.GenerateResponse()))
            elif streaming and entry["message"] == "Receive message" and entry.get("response"):
                # Of streams ghz logs the text format, of unary calls JSON.
                message = text_format.Parse(entry["response"], inference_pb2.GenerateStreamResponse())
                answer = open_streams.setdefault(entry["workerID"], inference_pb2.GenerateResponse())
                add_stream_message(answer, message)
                if message.finish_reason:
                    answers.append(open_streams.pop(entry["workerID"]))
    return answers


def ghz_data(requests, first, name):
    """The requests from the first one on, round; each call gets an id of its own that tells which request it was."""
    data = []
    for i in range(len(requests)):
        idx = (first + i) % len(requests)
        entry = json_format.MessageToDict(requests[idx])
        entry["requestId"] = f"{idx}-{name}-{{{{.RequestNumber}}}}"
        data.append(entry)
    return data


class LoggedRun(ghz.Ghz):
    """One run of ghz with its answers in a log. Folder, method and name make its files' names."""

    def __init__(self, address, method, requests, folder, name="0", first=0, total=1, concurrency=1, rps=0, log=True):
        self.streaming = method == "GenerateStream"
        report_path, self.log_path, data_path = (os.path.join(folder, f"{method}-{name}.{end}")
                                                 for end in ("json", "log", "data"))
        with open(data_path, "w", encoding="utf-8") as file:
            json.dump(ghz_data(requests, first, name), file)
        arguments = ["--call", f"atollpb.v1.InferenceService.{method}", "--data-file", data_path, "--total", str(total),
                     "--concurrency", str(concurrency), "--rps", str(rps), "--timeout", f"{CALL_TIMEOUT_S}s"]
        super().__init__(arguments + (["--debug", self.log_path] if log else []), address, report_path)

    def answers(self):
        return logged_answers(self.log_path, self.streaming)


def check_statuses(report, num_requests):
    if report["statusCodeDistribution"] == {"OK": num_requests}:
        return []
    return [f"status codes: expected {num_requests} OK, found {report['statusCodeDistribution']}"]


def check_answers(answers, expected, num_requests):
    """Problems, as texts."""
    problems = []
    if len(answers) != num_requests:
        problems.append(f"answers in the log: expected {num_requests}, found {len(answers)}")
    seen = set()
    for answer in answers:
        idx = int(answer.request_id.split("-")[0])
        seen.add(idx)
        found = comparable(answer)
        wanted, has_seed = expected[idx]
        if not has_seed:  # the server chooses one, which a greedy answer does not depend on
            found, wanted = ({k: v for k, v in data.items() if k != "seed"} for data in (found, wanted))
        if found != wanted:
            problems.append(f"request {idx}: alone {wanted}, under load {found}")
    if len(seen) != min(len(expected), num_requests):
        problems.append(f"expected answers to all of {len(expected)} requests, found {len(seen)}")
    return problems


def unary_load(address, requests, expected, arguments, folder):
    with LoggedRun(address, "Generate", requests, folder, total=arguments.requests, concurrency=arguments.concurrency,
                   rps=90) as logged:
        report = logged.report()
    answers = logged.answers()
    problems = check_statuses(report, arguments.requests) + check_answers(answers, expected, arguments.requests)
    tell("Generate", report, len(answers), problems)
    return problems


def streaming_load(address, requests, expected, arguments, folder):
    with LoggedRun(address, "GenerateStream", requests, folder, total=arguments.requests,
                   concurrency=arguments.concurrency, log=False) as fast:
        report = fast.report()
    problems = check_statuses(report, arguments.requests)
    each = -(-arguments.requests // arguments.concurrency)
    clients = [LoggedRun(address, "GenerateStream", requests, folder, name=str(i + 1), first=i * each, total=each, rps=1)
               for i in range(arguments.concurrency)]
    try:
        for client in clients:
            problems += check_statuses(client.report(), each)
    finally:
        for client in clients:
            client.end()
    answers = [answer for client in clients for answer in client.answers()]
    problems += check_answers(answers, expected, each * arguments.concurrency)
    tell("GenerateStream", report, len(answers), problems)
    return problems


def tell(method, report, num_answers, problems):
    by_share = {entry["percentage"]: entry["latency"] / 1e6 for entry in report["latencyDistribution"]}
    times = ", ".join(f"p{share} {by_share[share]:.0f} ms" for share in (50, 95, 99))
    print(f"{method}: {report['count']} calls, {report['rps']:.1f} a second, {times}; {num_answers} answers compared, "
          f"{len(problems)} problems")


def run(client, address, arguments, folder):
    """Unary load, then streams, each request beside its answer when it was alone. Problems, as texts."""
    requests = mixed_requests()
    print(f"{arguments.requests} requests of {len(requests)} kinds, {arguments.concurrency} at once")
    expected = [(comparable(client.generate(request, CALL_TIMEOUT_S)), request.sampling.HasField("seed"))
                for request in requests]
    problems = []
    for load in (unary_load, streaming_load):
        problems += load(address, requests, expected, arguments, folder)
    return problems
