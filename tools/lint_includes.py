#!/usr/bin/env python3
"""Refuses an include across folders that the build has no arrow for.

The arrows are the DEPS of atoll_library, atoll_objects, atoll_binary, atoll_test and atoll_fuzz (cmake/atoll.cmake) in
the CMakeLists.txt files. A source may include a header of another folder if its target links, directly or through
others, a target that the header belongs to: the one with the .cc of the same name or, for a header alone, any with
sources in that folder.
"""

import collections
import os
import re
import subprocess
import sys

CALL = re.compile(r"^\s*atoll_(?:library|objects|binary|test|fuzz)\(\s*(\w+)(.*?)\)", re.S | re.M)
LINK = re.compile(r"^\s*target_link_libraries\(\s*(\w+)\s+(?:PUBLIC|PRIVATE)\s+(.*?)\)", re.S | re.M)
COMMENT = re.compile(r"#[^\n]*")
SET = re.compile(r"^\s*(?:set\(\s*|list\(\s*APPEND\s+)(\w+)\s+(.*?)\)", re.S | re.M)
INCLUDE = re.compile(r'^\s*#include "([^"]+)"', re.M)
KEYWORDS = {"SRCS", "DEPS", "LABELS"}


class Build:
    """Targets of all CMakeLists.txt: their sources, and what they link."""

    def __init__(self, cmake_lists):
        self.sources = collections.defaultdict(set)  # target -> paths
        self.links = collections.defaultdict(set)  # target -> targets
        for path in cmake_lists:
            with open(path, encoding="utf-8") as file:
                self._read(os.path.dirname(path), COMMENT.sub("", file.read()))

    def _read(self, folder, text):
        variables = collections.defaultdict(str)
        for name, words in SET.findall(text):
            variables[name] += " " + words
        text = re.sub(r"\$\{(\w+)\}", lambda match: variables[match.group(1)], text)
        for target, arguments in CALL.findall(text):
            keyword = None
            for word in arguments.split():
                if word in KEYWORDS:
                    keyword = word
                elif keyword == "SRCS":
                    self.sources[target].add(os.path.normpath(os.path.join(folder, word)))
                elif keyword == "DEPS":
                    self.links[target].add(word)
        for target, words in LINK.findall(text):
            self.links[target].update(words.split())
        if folder == "proto":
            self.sources["atl_proto"].add("proto/atollpb")
        if folder == "third_party/googleapis":
            self.sources["atl_rpc_details"].add("third_party/google")

    def closure(self, target):
        seen, pending = set(), [target]
        while pending:
            name = pending.pop()
            if name not in seen:
                seen.add(name)
                pending.extend(self.links.get(name, ()))
        return seen

    def owners_of_source(self, path):
        return {target for target, sources in self.sources.items() if path in sources}

    def owners_of_header(self, path):
        stem = os.path.splitext(path)[0]
        same_name = self.owners_of_source(stem + ".cc")
        if same_name:
            return same_name
        folder = os.path.dirname(path)
        return {target for target, sources in self.sources.items()
                if any(os.path.dirname(source) == folder for source in sources)}


def owners_of_include(build, include):
    if include.startswith("atollpb/"):
        return {"atl_proto"}
    if include.startswith("google/rpc/"):
        return {"atl_rpc_details"}
    return build.owners_of_header(include) if os.path.exists(include) else None


def check(build, path, problems):
    owners = build.owners_of_source(path) if path.endswith(".cc") else build.owners_of_header(path)
    if path.endswith(".cc") and not owners:
        problems.append(f"{path}: in no target: nothing builds it")
        return
    with open(path, encoding="utf-8") as file:
        includes = INCLUDE.findall(file.read())
    for include in includes:
        wanted = owners_of_include(build, include)
        if wanted is None or os.path.dirname(include) == os.path.dirname(path):
            continue
        for owner in sorted(owners):
            if not wanted & build.closure(owner):
                problems.append(f"{path}: includes {include}, but {owner} does not link "
                                f"{' or '.join(sorted(wanted)) or 'anything of that folder'}")


def main():
    listed = subprocess.run(["git", "ls-files", "--cached", "--others", "--exclude-standard"], check=True,
                            capture_output=True, text=True).stdout.split("\n")
    existing = [path for path in listed if os.path.exists(path)]
    build = Build([path for path in existing if os.path.basename(path) == "CMakeLists.txt"])
    problems = []
    for path in existing:
        if path.endswith((".cc", ".h")):
            check(build, path, problems)
    print("\n".join(problems), end="\n" if problems else "")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
