"""One cluster, asked in every way: the demo model's expected answers, strange prompts, clients that hang up."""

import threading
import unittest

import grpc

from support import EXPECTED, Cluster, api, collect, main, safe_ids, used_blocks, wait_until

CONTEXT = 2048  # of the demo model


def setUpModule():
    global CLUSTER
    CLUSTER = Cluster(routers=2, attention=2, experts=4)
    unittest.addModuleCleanup(CLUSTER.__exit__, None, None, None)


def prompt_of(case, **fields):
    if case["kind"] == "chat":
        return api.chat_request([(message["role"], message["content"]) for message in case["messages"]], **fields)
    return api.ids_request(case["prompt_ids"], **fields)


class ExpectedAnswersTest(unittest.TestCase):
    def test_greedy_tokens_are_the_expected_ones(self):
        compared = 0
        with CLUSTER.client(0) as client:
            for case in EXPECTED:
                wanted = safe_ids(case)
                answer = client.generate(prompt_of(case, temperature=0, max_tokens=len(wanted)))
                self.assertEqual(list(answer.token_ids), wanted, case.get("messages", case["prompt_ids"]))
                self.assertEqual(answer.usage.prompt_tokens, len(case["prompt_ids"]))
                compared += len(wanted)
        self.assertGreater(compared, 700)  # of 757 up to the end marks

    def test_streams_put_together_are_the_unary_answers(self):
        with CLUSTER.client(0) as one, CLUSTER.client(1) as other:
            for case in EXPECTED[:6]:
                request = prompt_of(case, temperature=0.8, seed=11, max_tokens=40, logprobs=3, prompt_logprobs=0)
                whole = one.generate(request)
                ids, text, messages = collect(other.generate_stream(request))
                self.assertEqual(ids, list(whole.token_ids))
                self.assertEqual(text, whole.text)
                self.assertEqual([p for m in messages for p in m.logprobs], list(whole.logprobs))
                self.assertEqual(list(messages[0].prompt_logprobs), list(whole.prompt_logprobs))
                self.assertEqual(messages[-1].finish_reason, whole.finish_reason)
                self.assertGreater(len(messages), 1)

    def test_a_resumed_answer_goes_on_exactly(self):
        request = api.chat_request("What is MLA?", temperature=1.0, seed=3, max_tokens=30)
        with CLUSTER.client(0) as one, CLUSTER.client(1) as other:
            whole = list(one.generate(request).token_ids)
            for cut in (1, 7, len(whole) - 1):
                request.resume_from.ids[:] = whole[:cut]
                self.assertEqual(list(other.generate(request).token_ids), whole[cut:])


class StandardServicesTest(unittest.TestCase):
    def test_every_server_has_health_and_reflection(self):
        own = {"router": {"atollpb.v1.InferenceService", "atollpb.v1.ModelService", "atollpb.v1.RouterService",
                          "atollpb.v1.ClusterService"},
               "attention": {"atollpb.v1.AttentionService"},
               "expert": {"atollpb.v1.ExpertService"}}
        for entry in CLUSTER.processes():
            with self.subTest(entry["name"]), api.Client(entry["addresses"]["grpc"]) as client:
                for service in ("", "liveness", "readiness", entry["role"]):
                    self.assertEqual(client.health(service), 1, service)
                with self.assertRaises(grpc.RpcError) as raised:
                    client.health("no-such-service")
                self.assertEqual(raised.exception.code(), grpc.StatusCode.NOT_FOUND)
                services = set(client.services())
                self.assertLessEqual(own[entry["role"]] | {"grpc.health.v1.Health"}, services)
            with self.subTest(entry["name"] + " health port"), api.Client(entry["addresses"]["health"]) as client:
                self.assertEqual(client.health("readiness"), 1)


class StrangePromptsTest(unittest.TestCase):
    def assert_refused(self, request, code, *texts):
        with CLUSTER.client() as client:
            with self.assertRaises(grpc.RpcError) as raised:
                client.generate(request)
        self.assertEqual(raised.exception.code(), code)
        for text in texts:
            self.assertIn(text, raised.exception.details())

    def tearDown(self):
        with CLUSTER.client() as client:  # the cluster has stayed up
            self.assertEqual(client.generate(api.chat_request("Hello", max_tokens=2)).usage.generated_tokens, 2)

    def test_a_prompt_longer_than_the_context_is_refused(self):
        self.assert_refused(api.ids_request([5] * (CONTEXT + 1)), grpc.StatusCode.INVALID_ARGUMENT, str(CONTEXT))

    def test_empty_prompts_are_refused(self):
        for request in (api.ids_request([]), api.chat_request([])):
            self.assert_refused(request, grpc.StatusCode.INVALID_ARGUMENT)

    def test_10000_tokens_end_with_the_context(self):
        with CLUSTER.client() as client:
            answer = client.generate(api.ids_request([0, 5, 6], max_tokens=10000, ignore_eos=True, temperature=0),
                                     timeout=300)
        self.assertEqual(answer.usage.generated_tokens, CONTEXT - 3)
        self.assertEqual(answer.finish_reason, 2)  # LENGTH

    def test_binary_text_is_answered(self):
        text = bytes(range(256)).decode("latin-1") + "\x00\u200d\U0001f600\ufffd"
        with CLUSTER.client() as client:
            self.assertEqual(client.generate(api.text_request(text, max_tokens=4, ignore_eos=True)).usage
                             .generated_tokens, 4)

    def test_bytes_that_are_no_utf8_are_refused_and_nothing_falls_over(self):
        request = api.text_request("xx").SerializeToString().replace(b"xx", b"\xff\xfe")
        with CLUSTER.client() as client:
            with self.assertRaises(grpc.RpcError):
                client.raw("/atollpb.v1.InferenceService/Generate", request)


class HangUpTest(unittest.TestCase):
    def test_64_clients_that_hang_up_leave_nothing_behind(self):
        failures = []

        def hang_up(idx):
            try:
                with CLUSTER.client(idx % 2) as client:
                    call = client.generate_stream(
                        api.chat_request("What is MLA?", ignore_eos=True, max_tokens=1500, temperature=1.0, seed=idx))
                    for _ in range(1 + idx % 5):
                        next(call)
                    if idx % 2:
                        call.cancel()
            except Exception as error:  # told below: an exception of a thread would be lost
                failures.append((idx, error))

        threads = [threading.Thread(target=hang_up, args=(idx,)) for idx in range(64)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(failures, [])
        wait_until(lambda: used_blocks(CLUSTER) == 0, 10, "all cache blocks given back")
        wait_until(lambda: sum(entry["holds"]["sequences"] for entry in CLUSTER.processes()) == 0, 10, "no sequence")
        with CLUSTER.client() as client:
            self.assertEqual(client.generate(api.chat_request("count to ten")).text,
                             "One, two, three, four, five, six, seven, eight, nine, ten.")

    def test_a_deadline_ends_the_work(self):
        with CLUSTER.client() as client:
            call = client.generate_stream(api.text_request("Hello", ignore_eos=True, max_tokens=2000), timeout=1.0)
            tokens = 0
            with self.assertRaises(grpc.RpcError) as raised:
                for message in call:
                    tokens += len(message.token_ids)
            self.assertEqual(raised.exception.code(), grpc.StatusCode.DEADLINE_EXCEEDED)
            self.assertGreater(tokens, 0)
        wait_until(lambda: used_blocks(CLUSTER) == 0, 10, "all cache blocks given back")


if __name__ == "__main__":
    main()
