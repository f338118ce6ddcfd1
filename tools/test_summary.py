#!/usr/bin/env python3
"""Counts the tests of JUnit files and prints `N passed, N failed, N skipped` as the last line.

    test_summary.py --skipped LIST JUNIT...

LIST names the tests that are skipped in CI, one a line. Where CI is set in the environment another set of skipped
tests is a failure; elsewhere (a machine without AVX-512, say) it is only said. Exit code 1 if anything failed.
"""

import argparse
import os
import sys
import xml.etree.ElementTree as ElementTree


def read_results(paths):
    """Names of passed, failed and skipped tests; those of the second file on are prefixed with their build folder."""
    passed, failed, skipped = [], [], []
    for i, path in enumerate(paths):
        prefix = "" if i == 0 else os.path.basename(os.path.dirname(path)) + "/"
        for case in ElementTree.parse(path).getroot().iter("testcase"):
            name = prefix + case.get("name")
            if case.find("failure") is not None or case.get("status") == "fail":
                failed.append(name)
            elif case.find("skipped") is not None or case.get("status") in ("notrun", "disabled"):
                skipped.append(name)
            else:
                passed.append(name)
    return passed, failed, skipped


def read_list(path):
    with open(path, encoding="utf-8") as file:
        lines = [line.split("#")[0].strip() for line in file]
    return {line for line in lines if line}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--skipped", required=True)
    parser.add_argument("junit", nargs="+")
    arguments = parser.parse_args()

    passed, failed, skipped = read_results(arguments.junit)
    expected = read_list(arguments.skipped)
    ok = not failed
    for name in failed:
        print(f"failed: {name}")
    # Trees with sanitizers skip more; the list is of the plain one.
    plain = {name for name in skipped if not name.startswith("build-")}
    for name in sorted(plain ^ expected):
        print(f"skipped, but not in {arguments.skipped}: {name}" if name in plain else
              f"in {arguments.skipped}, but not skipped: {name}")
        if os.environ.get("CI"):
            ok = False
    if not passed:
        print("no test has passed")
        ok = False
    print(f"{len(passed)} passed, {len(failed)} failed, {len(skipped)} skipped")
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
