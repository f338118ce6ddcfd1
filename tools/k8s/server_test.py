#!/usr/bin/env python3
"""./dev k8s test: what an API server says of deploy/, and nodes that only pretend. Any KUBECONFIG serves; what cannot be
tried there is skipped with the reason. Leaves nothing behind but the CRDs of KEDA, LWS and the Prometheus operator.

    server_test.py --go GO      Go fetches the CRDs
"""

import argparse
import collections
import json
import os
import subprocess
import sys
import time
import unittest

import render
import schemas

go = "go"
SCALE = "atoll-scale"
NUM_EXPERTS = 64
NUM_NODES = 16  # for all pods of kwok-scale
DEADLINE_S = 120
READY = ".status.readyReplicas"  # what the disruption budget counts; a replica is available some seconds later
KUBECTL = os.environ.get("ATOLL_KUBECTL") or "kubectl"


def kubectl(*words, text=None, check=True):
    ended = subprocess.run([KUBECTL, *words], input=text, capture_output=True, text=True, check=False)
    if check and ended.returncode != 0:
        raise AssertionError(f"kubectl {' '.join(words)}: {ended.stderr.strip()}")
    return ended


def get(*words):
    return json.loads(kubectl("get", *words, "-o", "json").stdout)


def apply(documents, *flags, force=True, check=True):
    text = "\n".join(json.dumps(d) for d in documents)
    return kubectl("apply", "--server-side", f"--force-conflicts={str(force).lower()}", "--validate=strict", *flags, "-f", "-",
                   text=text, check=check)


def wait_for(resource, namespace, field, value):
    """Until the server says so, or the deadline."""
    kubectl("wait", resource, "-n", namespace, f"--for=jsonpath={{{field}}}={value}", f"--timeout={DEADLINE_S}s")


class Watch:
    """The values that a field of a resource takes while this is entered, the one it has at the beginning included."""

    def __init__(self, resource, namespace, field):
        self._command = [KUBECTL, "get", resource, "-n", namespace, "--watch", "-o", f'jsonpath={{{field}}}{{"\\n"}}']
        self.values = []

    def __enter__(self):
        self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, text=True)
        first = self._process.stdout.readline()
        if not first:
            raise AssertionError(f"{' '.join(self._command)} ended with {self._process.wait()}")
        self.values.append(int(first.strip() or 0))
        return self

    def __exit__(self, *_):
        self._process.terminate()
        self.values += [int(line.strip() or 0) for line in self._process.communicate()[0].splitlines()]


def make_namespaces(test, documents):
    """Those of the documents, or the test is skipped where one is there; they go when the test class is done."""
    namespaces = [d for d in documents if d["kind"] == "Namespace"]
    names = sorted({d["metadata"]["name"] for d in namespaces})
    taken = {item["metadata"]["name"] for item in get("namespaces")["items"]} & set(names)
    if taken:
        raise unittest.SkipTest(f"namespaces are there already: {', '.join(sorted(taken))}")
    test.addClassCleanup(kubectl, "delete", "namespace", "--ignore-not-found", *names)
    apply(namespaces)
    return names


class ServerTest(unittest.TestCase):
    """Server-side dry runs; the namespaces are made for real, and removed."""

    @classmethod
    def setUpClass(cls):
        for path in schemas.crd_files(go):
            kubectl("apply", "--server-side", "-f", path)
        kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=60s")
        cls.renderings = {name: render.parse(text) for name, text in render.render_all().items()}
        cls.namespaces = make_namespaces(cls, [d for documents in cls.renderings.values() for d in documents])

    def test_the_server_takes_every_overlay_strictly(self):
        for name, documents in self.renderings.items():
            with self.subTest(name):
                ended = apply(documents, "--dry-run=server")
                self.assertEqual(len(ended.stdout.splitlines()), len(documents))
                self.assertEqual(ended.stderr, "")  # no warning either, as of a pod that is not restricted

    def test_a_misspelt_field_is_refused(self):
        text = json.dumps(self.renderings["cpu"]).replace("podManagementPolicy", "podManagmentPolicy")
        ended = apply(json.loads(text), "--dry-run=server", check=False)
        self.assertIn(".spec.podManagmentPolicy: field not declared in schema", ended.stderr)

    def pool(self, rendering):
        (document,) = [d for d in self.renderings[rendering]
                       if d["kind"] == "StatefulSet" and d["metadata"]["name"] == "atoll-experts"]
        return document

    def replicas(self):
        return get("statefulset/atoll-experts", "-n", self.pool("cpu")["metadata"]["namespace"])["spec"]["replicas"]

    def test_a_pool_that_was_scaled_is_not_undone_by_an_apply(self):
        pool = self.pool("cpu")
        namespace = pool["metadata"]["namespace"]
        self.addCleanup(kubectl, "delete", "statefulset/atoll-experts", "-n", namespace)
        apply([pool], force=False)
        kubectl("scale", "statefulset/atoll-experts", "-n", namespace, "--replicas=6")
        refused = apply([pool], force=False, check=False)
        self.assertIn(".spec.replicas", refused.stderr)
        self.assertEqual(self.replicas(), 6)
        apply([pool | {"spec": pool["spec"] | {"replicas": 6}}], force=False)  # what docs/operations.md says to do
        self.assertEqual(self.replicas(), 6)

    def test_a_pool_is_handed_to_an_autoscaler_with_its_pods(self):
        pool = self.pool("cpu")
        namespace = pool["metadata"]["namespace"]
        self.addCleanup(kubectl, "delete", "statefulset/atoll-experts", "-n", namespace)
        apply([pool], force=False)
        owned = {"apiVersion": "apps/v1", "kind": "StatefulSet", "spec": {"replicas": pool["spec"]["replicas"]},
                 "metadata": {"name": "atoll-experts", "namespace": namespace}}
        apply([owned], "--field-manager=autoscaler", force=False)
        apply([self.pool("cpu+autoscaling/hpa")], force=False)
        self.assertEqual(self.replicas(), pool["spec"]["replicas"])

    def create_pod(self, namespace, spec):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "one", "namespace": namespace}, "spec": spec}
        return kubectl("create", "--dry-run=server", "-f", "-", text=json.dumps(pod), check=False)

    def test_pods_are_admitted_and_others_are_not(self):
        for name, documents in self.renderings.items():
            for document in documents:
                if document["kind"] == "StatefulSet":
                    namespace = document["metadata"]["namespace"]
                    spec = document["spec"]["template"]["spec"] | {"serviceAccountName": "default"}
                    with self.subTest(name, workload=document["metadata"]["name"]):
                        self.assertEqual(self.create_pod(namespace, spec).stderr, "")
        for namespace in self.namespaces:
            wrong = self.create_pod(namespace, {"containers": [{"name": "a", "image": "a:1"}]})
            self.assertIn('violates PodSecurity "restricted', wrong.stderr)


class ScaleTest(unittest.TestCase):
    """kwok-scale on nodes that only pretend."""

    @classmethod
    def setUpClass(cls):
        nodes = get("nodes", "-l", "type=kwok")["items"]
        cls.zones = {n["metadata"]["name"]: n["metadata"]["labels"].get("topology.kubernetes.io/zone") for n in nodes}
        if len(nodes) < NUM_NODES:
            raise unittest.SkipTest(f"{len(nodes)} kwok nodes, {NUM_NODES} needed: tools/kube/fake-nodes {NUM_NODES + 4}")
        cls.documents = render.parse(render.kustomize(os.path.join(render.DEPLOY, "overlays", "kwok-scale")))
        make_namespaces(cls, cls.documents)
        apply(cls.documents)

    def by_node(self, role):
        pods = get("pods", "-n", SCALE, "-l", f"app.kubernetes.io/component={role}")["items"]
        return collections.Counter(pod["spec"].get("nodeName") for pod in pods)

    def test_experts_start_spread_drain_and_scale(self):
        began = time.monotonic()
        wait_for("statefulset/atoll-experts", SCALE, READY, NUM_EXPERTS)
        print(f"{NUM_EXPERTS} expert pods ready after {time.monotonic() - began:.1f} s")

        experts = self.by_node("expert")
        print("expert pods a node:", dict(sorted(collections.Counter(experts.values()).items())))
        self.assertLessEqual(max(experts.values()) - min(experts.values()), 3)
        zones = collections.Counter()
        for node, count in experts.items():
            zones[self.zones[node]] += count
        print("expert pods a zone:", dict(zones))
        self.assertLessEqual(max(zones.values()) - min(zones.values()), NUM_EXPERTS // 8)
        self.assertEqual(max(self.by_node("router").values()), 1)

        fullest = max(experts, key=experts.get)
        with Watch("statefulset/atoll-experts", SCALE, READY) as ready:
            try:
                kubectl("drain", fullest, "--ignore-daemonsets", "--delete-emptydir-data", f"--timeout={DEADLINE_S}s")
            finally:
                kubectl("uncordon", fullest)
        least = min(ready.values)
        print(f"drained {fullest} of {experts[fullest]} expert pods; ready at least: {least}")
        self.assertGreaterEqual(least, NUM_EXPERTS - 1)  # the disruption budget

        kubectl("scale", "statefulset/atoll-experts", "-n", SCALE, "--replicas=32")
        wait_for("statefulset/atoll-experts", SCALE, ".status.replicas", 32)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--go", default="go")
    arguments = parser.parse_args()
    global go  # the tests' one setting
    go = arguments.go
    try:
        server = kubectl("version", "-o", "json", check=False)
    except FileNotFoundError:
        server = None
    if server is None or server.returncode != 0:
        print("skipped: no API server answers; ./dev k8s up starts one:", "no kubectl" if server is None else server.stderr.strip())
        return 0
    print("server", json.loads(server.stdout)["serverVersion"]["gitVersion"])
    return 0 if unittest.main(argv=[sys.argv[0]], verbosity=2, exit=False).result.wasSuccessful() else 1


if __name__ == "__main__":
    sys.exit(main())
