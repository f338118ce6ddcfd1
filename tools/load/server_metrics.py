"""What servers say of a stretch of time: their Prometheus metrics before and after."""

import collections
import math
import re
import urllib.request

SAMPLE = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$")
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


class Metrics:
    """Samples of one or several processes, added up."""

    def __init__(self):
        self.samples = collections.defaultdict(float)  # (name, labels) -> value
        self.types = {}

    def add_text(self, text):
        for line in text.splitlines():
            if line.startswith("# TYPE "):
                _, _, name, kind = line.split()
                self.types[name] = kind
            elif line and not line.startswith("#"):
                name, labels, value = SAMPLE.match(line).groups()
                self.samples[name, tuple(sorted(LABEL.findall(labels or "")))] += float(value)

    def value(self, name, **labels):
        """Sum over the samples that have these labels."""
        return sum(value for (sample, found), value in self.samples.items()
                   if sample == name and labels.items() <= dict(found).items())

    def by_label(self, name, label):
        sums = collections.defaultdict(float)
        for (sample, labels), value in self.samples.items():
            if sample == name:
                sums[dict(labels).get(label)] += value
        return dict(sums)

    def histogram(self, name):
        buckets = sorted((float(bound.replace("+Inf", "inf")), value)
                         for bound, value in self.by_label(name + "_bucket", "le").items())
        return Histogram(buckets, self.value(name + "_sum"))

    def since(self, before):
        """What was added. Gauges are differences too."""
        result = Metrics()
        result.types = self.types
        for key, value in self.samples.items():
            result.samples[key] = value - before.samples.get(key, 0.0)
        return result


class Histogram:
    """Cumulative buckets [(upper bound, count)], the last one's bound infinite."""

    def __init__(self, buckets, total):
        self.buckets, self.sum = buckets, total

    @property
    def count(self):
        return int(self.buckets[-1][1]) if self.buckets else 0

    @property
    def mean(self):
        return self.sum / self.count if self.count else None

    def quantile(self, share):
        """Linear inside a bucket, as Prometheus' histogram_quantile; beyond the last bound: that bound. None: empty."""
        if not self.count:
            return None
        rank, lower, below = share * self.count, 0.0, 0.0
        for bound, count in self.buckets:
            if count >= rank and count > below:
                return lower if math.isinf(bound) else lower + (bound - lower) * (rank - below) / (count - below)
            lower, below = bound, count
        return lower

    def counts(self):
        """[(upper bound, count)], each bucket by itself."""
        result, below = [], 0.0
        for bound, count in self.buckets:
            result.append((bound, count - below))
            below = count
        return result


def scrape(urls, timeout_s=10):
    metrics = Metrics()
    for url in urls:
        with urllib.request.urlopen(url, timeout=timeout_s) as response:
            metrics.add_text(response.read().decode())
    return metrics


def urls_of(cluster, *roles):
    """Of a running cluster's processes."""
    return [f"http://{entry['addresses']['metrics']}/metrics" for entry in cluster.processes() if entry["role"] in roles]
