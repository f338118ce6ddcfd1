"""Renderings of deploy/ as tests ask about them."""

import functools
import re
import unittest

import render


class Cluster:
    """One rendering."""

    def __init__(self, name, text):
        self.name = name
        self.documents = render.parse(text)

    def all(self, kind):
        return [document for document in self.documents if document["kind"] == kind]

    def one(self, kind, name):
        return next(document for document in self.all(kind) if document["metadata"]["name"] == name)

    def workloads(self):
        """(role, object, pod template) of each."""
        for document in self.all("StatefulSet") + self.all("LeaderWorkerSet"):
            spec = document["spec"]
            template = spec["template"] if "template" in spec else spec["leaderWorkerTemplate"]["workerTemplate"]
            yield template["metadata"]["labels"]["app.kubernetes.io/component"], document, template

    def variables(self, container):
        """The environment as the container gets it; values that the pod fills in are "$"."""
        values = {}
        for source in container["envFrom"]:
            values.update(self.one("ConfigMap", source["configMapRef"]["name"])["data"])
        values.update({entry["name"]: entry.get("value", "$") for entry in container["env"]})
        return values


def seconds(text):
    return float(re.fullmatch(r"([\d.]+)s", text).group(1))


def quantity(text):
    """Bytes or counts, as Kubernetes and Atoll's flags write them."""
    number, unit = re.fullmatch(r"([\d.]+)([A-Za-z]*)", str(text)).groups()
    units = {"": 1, "m": 1e-3}
    units |= {prefix + end: 2 ** (10 * power) for power, prefix in enumerate("KMGT", 1) for end in ("i", "iB")}
    return float(number) * units[unit]


@functools.lru_cache(maxsize=None)
def all_clusters():
    return [Cluster(name, text) for name, text in render.render_all().items()]


class ClustersTest(unittest.TestCase):
    """Tests of every rendering. A failure says which one was looked at."""

    where = ""

    def _formatMessage(self, msg, standardMsg):
        return f"{self.where}: {super()._formatMessage(msg, standardMsg)}"

    @property
    def clusters(self):
        return all_clusters()

    def cluster(self, name):
        return next(cluster for cluster in all_clusters() if cluster.name == name)

    def each_cluster(self):
        for cluster in all_clusters():
            self.where = cluster.name
            yield cluster

    def each_workload(self):
        """(cluster, role, object, pod, container)"""
        for cluster in all_clusters():
            for role, document, template in cluster.workloads():
                self.where = f"{cluster.name}, {document['metadata']['name']}"
                yield cluster, role, document, template["spec"], template["spec"]["containers"][0]
