"""`./dev load`, short."""

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


if __name__ == "__main__":
    main()
