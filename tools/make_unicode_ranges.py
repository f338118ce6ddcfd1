#!/usr/bin/env python3
"""Writes text/unicode_ranges.inc: the general categories that tokenizers' regular expressions know.

    make_unicode_ranges.py > text/unicode_ranges.inc

The oracle is the regular expression engine (Oniguruma) inside the `tokenizers` library, so that the tables are
of the Unicode version that it has; needs `pip install tokenizers`.
"""
from importlib.metadata import version

from tokenizers import Regex, pre_tokenizers

CLASSES = {"kLetter": r"\p{L}", "kMark": r"\p{M}", "kNumber": r"\p{N}", "kPunctuation": r"\p{P}",
           "kSymbol": r"\p{S}", "kSpace": r"\s"}
CODE_POINTS = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]


def members(regex):
    """Code points that `regex` matches: those that removing its matches takes away."""
    remove = pre_tokenizers.Split(Regex(regex), "removed")
    found = []
    for i in range(0, len(CODE_POINTS), 4096):
        block = CODE_POINTS[i:i + 4096]
        kept = set("".join(piece for piece, _ in remove.pre_tokenize_str("".join(map(chr, block)))))
        found += [c for c in block if chr(c) not in kept]
    return found


def ranges(points):
    out = []
    for c in points:
        if out and out[-1][1] == c - 1:
            out[-1][1] = c
        else:
            out.append([c, c])
    return out


def main():
    print(f"// Made by tools/make_unicode_ranges.py from tokenizers {version('tokenizers')}: {{first, last, class}}.")
    for name, regex in CLASSES.items():
        line = ""
        for first, last in ranges(members(regex)):
            entry = f"{{{first:#x}, {last:#x}, {name}}}, "
            if len(line) + len(entry) > 101:
                print(line.rstrip())
                line = ""
            line += entry
        print(line.rstrip())


if __name__ == "__main__":
    main()
