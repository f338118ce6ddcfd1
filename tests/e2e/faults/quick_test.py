"""One test of each kind of fault, for every run of the tests; all of them are in the other modules here."""

import sys
import unittest

TESTS = [
    "experts_test.DemoTest.test_killed_with_other_holders",
    "experts_test.DemoTest.test_stopped_for_a_while_with_other_holders",
    "experts_test.PresetTest.test_killed_as_the_sole_holder",
    "attention_test.DemoTest.test_killed",
    "attention_test.PresetTest.test_drained_before_its_sequences_end",
    "routers_test.DemoTest.test_killed",
    "routers_test.PresetTest.test_drained_before_its_streams_end",
    "together_test.PresetTest.test_one_of_each_role_killed_at_once",
    "crash_test.DemoTest.test_a_sequence_that_lost_three_attention_nodes",
    "limits_test.DemoTest.test_too_much_load",
    "limits_test.PresetTest.test_cache_blocks_used_up",
]


def main():
    suite = unittest.defaultTestLoader.loadTestsFromNames(TESTS)
    return 0 if unittest.TextTestRunner(verbosity=2).run(suite).wasSuccessful() else 1


if __name__ == "__main__":
    sys.exit(main())
