"""What `./dev bench peers` computes from what it measures; no llama.cpp is needed."""

import argparse
import dataclasses
import os
import sys
import tempfile
import unittest
from unittest import mock

from support import main, paths

sys.path[:0] = [os.path.join(paths.SOURCE, "tools", "bench"), os.path.join(paths.SOURCE, "tools", "peers")]

import agreement  # noqa: E402
import llama_cpp  # noqa: E402
import machine  # noqa: E402
import peers  # noqa: E402
import programs  # noqa: E402
import tuning  # noqa: E402

START = llama_cpp.Settings(threads=2)


class Engine:
    """Fastest without repacking and with 128 rows, which pays only then; counts what it measures."""

    def __init__(self):
        self.measured = []

    def __call__(self, settings):
        self.measured.append(settings)
        return 10.0 + (2 if not settings.repack else 0) + (1 if not settings.repack and settings.ubatch == 128 else 0)


class TuningTest(unittest.TestCase):
    TO_TRY = [("repack", [True, False]), ("load", ["mmap", "none"]), ("ubatch", [512, 256, 128])]

    def test_each_setting_keeps_the_best_of_those_before(self):
        engine = Engine()
        tried = tuning.tune(engine, START, self.TO_TRY, repeats=2)
        self.assertEqual(tried[0], (dataclasses.replace(START, repack=False, ubatch=128), 13.0))
        self.assertEqual([speed for _, speed in tried], [13.0, 12.0, 12.0, 12.0, 10.0])
        # What was measured before is not measured again, and what is no faster stays out.
        self.assertEqual(len(engine.measured), 2 * 5)
        self.assertEqual(sum(settings.load == "none" for settings in engine.measured), 2)

    def test_what_was_found_is_remembered(self):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "settings.json")
            first = tuning.Memory(path).tuned("decode", Engine(), START, self.TO_TRY, 1)
            engine = Engine()
            memory = tuning.Memory(path)
            self.assertEqual(memory.tuned("decode", engine, START, self.TO_TRY, 1), first)
            self.assertEqual(engine.measured, [])
            memory.tuned("another", engine, START, self.TO_TRY, 1)
            self.assertNotEqual(engine.measured, [])


class CompareTest(unittest.TestCase):
    def test_one_sequence_is_held_against_the_read_roof_each_with_its_own_bytes(self):
        atoll = {"batch": 1, "tokens_per_s": 12.0, "bytes_per_token": 2.5e9, "gops": 1.0, "roof_gops": 100.0}
        row = peers.compare(atoll, 4.0, 40.0, 2e9)
        self.assertAlmostEqual(row["ratio"], 3)
        self.assertAlmostEqual(row["atoll_share"], 0.75)
        self.assertAlmostEqual(row["llama_cpp_share"], 0.2)

    def test_many_rows_are_held_against_the_arithmetic_roof(self):
        for atoll in ({"batch": 16, "tokens_per_s": 60.0, "bytes_per_token": 2.5e9, "gops": 300.0, "roof_gops": 900.0},
                      {"tokens": 512, "tokens_per_s": 60.0, "gops": 300.0, "roof_gops": 900.0}):
            row = peers.compare(atoll, 15.0, 40.0, 2e9)
            self.assertAlmostEqual(row["ratio"], 4)
            self.assertAlmostEqual(row["atoll_share"], 1 / 3)
            self.assertAlmostEqual(row["llama_cpp_share"], 1 / 12)


class RoundTest(unittest.TestCase):
    """One round with both engines replaced: who runs when."""

    def run_round(self, atoll_first):
        order = []

        def program(name, *arguments):
            order.append(name)
            row = {"tokens_per_s": 20.0, "gops": 300.0, "roof_gops": 900.0, "bytes_per_token": 2e9, "read_gbps": 40.0}
            counts = {"roof": ("threads", [2]), "decode": ("batch", [1, 16]), "prefill": ("tokens", [64, 128, 512])}
            what, values = counts[name]
            return [row | {what: value} for value in values]

        def llama(work, speed):
            def measure(*_):
                order.append(work)
                return speed
            return measure

        flags = argparse.Namespace(threads=2, tokens=4, lengths=[128, 512])
        with mock.patch.object(peers, "program", program), \
             mock.patch.object(programs, "program", program), \
             mock.patch.object(peers.gguf_file, "active_bytes", lambda path: 1e9), \
             mock.patch.object(llama_cpp, "decode", llama("llama decode", 5.0)), \
             mock.patch.object(llama_cpp, "streams", llama("llama streams", 10.0)), \
             mock.patch.object(llama_cpp, "prefill", llama("llama prompt", {128: 4.0, 512: 2.0})):
            settings = dict.fromkeys(peers.llama_works("", 4, flags.lengths), START)
            return order, peers.measure_round("", "", "q8", settings, flags, atoll_first)

    def test_turns_of_each_kind_of_work_with_the_roof_around_them(self):
        llama_decode, llama_prompts = ["llama decode", "llama streams"], ["llama prompt"] * 2
        order, _ = self.run_round(True)
        self.assertEqual(order, ["roof", "decode", "roof", *llama_decode, "roof", "roof", "prefill", "roof", *llama_prompts, "roof"])
        order, _ = self.run_round(False)
        self.assertEqual(order, ["roof", *llama_decode, "roof", "decode", "roof", "roof", *llama_prompts, "roof", "prefill", "roof"])

    def test_each_kind_of_work_has_its_ratio(self):
        _, rows = self.run_round(True)
        self.assertEqual({work: row["ratio"] for work, row in rows.items()},
                         {"decode": 4.0, "16 streams": 2.0, "prompt 128": 5.0, "prompt 512": 10.0})
        self.assertAlmostEqual(rows["decode"]["atoll_share"], 1.0)
        self.assertAlmostEqual(rows["decode"]["llama_cpp_share"], 0.125)


class MachineTest(unittest.TestCase):
    def test_busy_is_all_but_idle_and_waiting(self):
        ticks = os.sysconf("SC_CLK_TCK")
        values = [10, 20, 30, 1000, 500, 1, 2, 3, 0, 0]  # user nice system idle iowait irq softirq steal guest guest_nice
        line = "cpu  " + " ".join(str(value * ticks) for value in values)
        self.assertAlmostEqual(machine.busy_s(line), 66)


class AgreementTest(unittest.TestCase):
    def test_distance_over_the_ids_that_both_have(self):
        expected = [{1: -1.0, 2: -2.0}, {3: -0.5, 4: -3.0}]
        found = [{1: -1.25, 2: -2.0, 9: -7.0}, {3: -4.0, 4: -3.0}]
        row = agreement.distance(expected, found)
        self.assertEqual((row["positions"], row["top1"]), (2, 0.5))
        self.assertAlmostEqual(row["mean_difference"], (0.25 + 3.5) / 4)
        self.assertAlmostEqual(row["max_difference"], 3.5)
        self.assertEqual(agreement.distance(expected, expected)["correlation"], 1)


if __name__ == "__main__":
    main()
