"""The metrics that docs/metrics.md lists."""

import os
import re

from support import paths

ROW = re.compile(r"^\| `(atoll_\w+)` \| (counter|gauge|histogram) \| ([\w, ]*)\|", re.M)


def documented():
    """{name: (type, labels)}."""
    with open(os.path.join(paths.SOURCE, "docs", "metrics.md"), encoding="utf-8") as file:
        return {name: (kind, set(re.findall(r"\w+", labels))) for name, kind, labels in ROW.findall(file.read())}


def samples():
    """{name: labels} of what a query may name: a histogram's parts in the place of its name."""
    found = {}
    for name, (kind, labels) in documented().items():
        if kind == "histogram":
            found.update({name + "_bucket": labels | {"le"}, name + "_sum": labels, name + "_count": labels})
        else:
            found[name] = labels
    return found
