"""`./dev load`, short."""

import importlib
import re
import unittest

from support import main, run


class LoadTest(unittest.TestCase):
    def test_every_call_is_ok_and_answered_as_if_it_were_alone(self):
        ended = run(["./dev", "load", "--requests", "40", "--concurrency", "8"], timeout=900)
        self.assertEqual(ended.returncode, 0, ended.stdout + ended.stderr)
        for method in ("Generate", "GenerateStream"):
            self.assertRegex(ended.stdout, re.compile(
                rf"^{method}: 40 calls, .*p50 \d+ ms, p95 \d+ ms, p99 \d+ ms; 40 answers compared, 0 problems$", re.M))

    def test_a_difference_would_be_found(self):
        load = importlib.import_module("load.load")
        answer = load.inference_pb2.GenerateResponse(request_id="0-1-2", text="a", token_ids=[1], seed=5)
        answer.usage.generated_tokens = 1
        expected = [(load.comparable(answer), False)]
        self.assertEqual(load.check_answers([answer], expected, 1), [])
        answer.seed = 6  # chosen by the server
        self.assertEqual(load.check_answers([answer], expected, 1), [])
        answer.token_ids[0] = 2
        self.assertIn("request 0: alone", load.check_answers([answer], expected, 1)[0])
        self.assertIn("expected 2, found 1", load.check_answers([answer], expected, 2)[0])
        self.assertEqual(len(load.check_statuses({"statusCodeDistribution": {"OK": 1, "Unavailable": 1}}, 2)), 1)


if __name__ == "__main__":
    main()
