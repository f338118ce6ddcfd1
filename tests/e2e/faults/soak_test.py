"""A soak of a minute, and what a soak must notice."""

import itertools
import os
import subprocess
import sys
import unittest

import soak
from harness import main
from soak_cluster import hosted_names, supervised_names
from soak_load import Ledger, classify
from soak_schedule import MAX_ATTENTION_HITS, Schedule, role_of
from streams import Answer

from atollpb.v1 import inference_pb2

MINUTES = "0.75"  # beside the cluster's start, the undisturbed answers and the end
SEED = "1"


def faults(seed, count, hosted=True):
    return list(itertools.islice(Schedule(seed, supervised_names(), hosted_names("service") if hosted else [], 8), count))


class SoakTest(unittest.TestCase):
    def test_a_minute(self):
        ended = subprocess.run([sys.executable, os.path.join(os.path.dirname(soak.__file__), "soak.py"), "--minutes",
                                MINUTES, "--seed", SEED], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                               timeout=240, check=False)
        print("\n" + ended.stdout, flush=True)
        self.assertEqual(ended.returncode, 0)
        self.assertRegex(ended.stdout, r"\d\d faults in .* lost 0, doubled 0, different 0\n")


class ScheduleTest(unittest.TestCase):
    def test_a_seed_gives_one_order(self):
        self.assertEqual(faults(7, 300), faults(7, 300))
        self.assertNotEqual(faults(7, 300), faults(8, 300))

    def test_every_fault_has_a_bound_and_every_bound_a_fault(self):
        labels = {fault.label for fault in faults(1, 3000)}
        self.assertEqual(labels, set(soak.BOUNDS) - {soak.UNDISTURBED})
        self.assertNotIn("cut host", {fault.kind for fault in faults(1, 1000, hosted=False)})

    def test_only_who_joined_leaves(self):
        joined = set()
        for fault in faults(3, 3000):
            names = {name for name in fault.names if "joined" in name}
            if fault.kind == "join":
                joined |= names
            else:
                self.assertLessEqual(names, joined)
                joined -= names
            self.assertLessEqual(len(joined), 2)

    def test_no_sequence_loses_three_attention_nodes(self):
        hits = 0
        for fault in faults(4, 3000):
            hits = 0 if fault.mended_first else hits
            hits += sum(role_of(name) == "attention" for name in fault.names)
            self.assertLessEqual(hits, MAX_ATTENTION_HITS)


class LedgerTest(unittest.TestCase):
    WANTED = list(range(100, 160))

    def ledger_of(self, ids, error=None, usage=None):
        answer = Answer(0)
        answer.add(inference_pb2.GenerateStreamResponse(token_ids=ids, finish_reason=2, usage=inference_pb2.Usage(
            generated_tokens=len(ids) if usage is None else usage)), "router")
        answer.error = error
        ledger = Ledger([self.WANTED])
        ledger.add(answer)
        self.assertEqual(len(ledger.problems), int(ids != self.WANTED or error is not None or usage is not None))
        return ledger.lost, ledger.doubled, ledger.different

    def test_what_is_wrong_is_counted(self):
        ids = self.WANTED
        self.assertEqual(self.ledger_of(ids), (0, 0, 0))
        self.assertEqual(self.ledger_of(ids[:10] + ids[12:]), (2, 0, 0))
        self.assertEqual(self.ledger_of(ids[:-3]), (3, 0, 0))
        self.assertEqual(self.ledger_of(ids[:10] + ids[7:]), (0, 3, 0))
        self.assertEqual(self.ledger_of(ids + ids[-1:]), (0, 1, 0))
        self.assertEqual(self.ledger_of(ids[:10] + [7] + ids[11:]), (0, 0, 50))
        self.assertEqual(self.ledger_of(ids[:50], error=RuntimeError("gone")), (10, 0, 0))
        self.assertEqual(self.ledger_of(ids, usage=59), (0, 0, 1))

    def test_a_client_that_hung_up_has_the_beginning(self):
        ledger = Ledger([self.WANTED])
        ledger.add_hung_up(0, self.WANTED[:9])
        self.assertEqual(ledger.problems, [])
        ledger.add_hung_up(0, self.WANTED[1:9])
        self.assertEqual(len(ledger.problems), 1)

    def test_the_place_is_told(self):
        self.assertEqual(classify([1, 2, 4], [1, 2, 3, 4]), ("lost", 2, 1))
        self.assertEqual(classify([1, 2, 2, 3], [1, 2, 3]), ("doubled", 2, 1))
        self.assertEqual(classify([], [1, 2]), ("lost", 0, 2))


class GapsTest(unittest.TestCase):
    WINDOWS = [(10, 12, ["kill expert"]), (20, 29, ["stop router"]), (40, 45, ["kill router", "drain router"])]

    def test_a_gap_counts_for_what_it_touches(self):
        longest, problems = soak.judge_gaps(self.WINDOWS, [(10.5, 11), (11, 11.7), (15, 15.2), (19, 26), (41, 47)])
        self.assertEqual({label: round(gap, 3) for label, gap in longest.items()},
                         {"kill expert": 0.7, soak.UNDISTURBED: 0.2, "stop router": 7, soak.OVERLAPPING: 6})
        self.assertEqual(problems, [])

    def test_a_gap_above_its_bound_is_told(self):
        for gap in ((10.5, 11.6), (15, 16.1), (20, 28.5), (40, 47.5)):
            self.assertEqual(len(soak.judge_gaps(self.WINDOWS, [gap])[1]), 1, gap)


if __name__ == "__main__":
    main()
