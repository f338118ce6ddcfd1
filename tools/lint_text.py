#!/usr/bin/env python3
"""Refuses files that are too long to be read in one sitting, and notes of work left undone."""

import re
import subprocess
import sys

MAX_LINES = 500
SUFFIXES = (".h", ".cc", ".py", ".proto", ".cmake", ".sh")
# Written so that this file does not find itself.
UNDONE = re.compile(r"\b(" + "|".join(["TO" + "DO", "FIX" + "ME", "XX" + "X", "HA" + "CK"]) + r")\b")


def main():
    listed = subprocess.run(["git", "ls-files", "--cached", "--others", "--exclude-standard"], check=True,
                            capture_output=True, text=True).stdout.split("\n")
    code = 0
    for path in listed:
        if not path.endswith(SUFFIXES) and path not in ("dev", "CMakeLists.txt"):
            continue
        try:
            with open(path, encoding="utf-8") as file:
                lines = file.read().split("\n")
        except FileNotFoundError:  # removed, not yet committed
            continue
        if len(lines) > MAX_LINES:
            print(f"{path}: {len(lines)} lines, at most {MAX_LINES}")
            code = 1
        for number, line in enumerate(lines, 1):
            if UNDONE.search(line):
                print(f"{path}:{number}: {line.strip()}")
                code = 1
    return code


if __name__ == "__main__":
    sys.exit(main())
