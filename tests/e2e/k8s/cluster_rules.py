"""What deploy/ promises of a cluster: who may do what, who reaches whom, what is watched."""

import json
import os
import re

from documented_metrics import documented, samples
from k8s.clusters import ClustersTest
from support import paths

GRPC, HEALTH, METRICS, DATA = 8470, 8471, 8472, 8473
LABELS = ("name", "instance", "version", "component", "part-of", "managed-by")
GRPC_CODES = {"OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
              "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED",
              "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED"}
# Who opens connections to whom (docs/operations.md). Routers keep links to experts in both modes.
EDGES = {
    ("client", "router", GRPC), ("router", "router", GRPC), ("attention", "router", GRPC), ("expert", "router", GRPC),
    ("router", "attention", GRPC), ("router", "expert", GRPC), ("router", "expert", DATA),
    ("prometheus", "router", METRICS), ("prometheus", "attention", METRICS), ("prometheus", "expert", METRICS),
}
EDGES_BY_DISPATCH = {
    "service": {("attention", "router", DATA)},
    "inline": {("attention", "expert", GRPC), ("attention", "expert", DATA)},
}


class SecurityRules(ClustersTest):
    def test_namespaces_enforce_the_restricted_standard(self):
        for cluster in self.each_cluster():
            (namespace,) = cluster.all("Namespace")
            self.assertEqual(namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"], "restricted")
            for document in cluster.documents:
                if document["kind"] != "Namespace":
                    self.assertEqual(document["metadata"]["namespace"], namespace["metadata"]["name"])

    def test_pods_meet_the_restricted_standard(self):
        for _, _, _, pod, container in self.each_workload():
            self.assertIs(pod["securityContext"]["runAsNonRoot"], True)
            self.assertGreater(pod["securityContext"]["runAsUser"], 10000)
            self.assertEqual(pod["securityContext"]["seccompProfile"], {"type": "RuntimeDefault"})
            self.assertEqual(container["securityContext"], {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True,
                                                            "capabilities": {"drop": ["ALL"]}})
            self.assertEqual({"hostNetwork", "hostPID", "hostIPC"} & set(pod), set())
            for volume in pod["volumes"]:
                self.assertTrue({"emptyDir", "persistentVolumeClaim"} & set(volume), volume)

    def test_each_workload_has_an_account_without_token(self):
        for cluster, _, document, pod, _ in self.each_workload():
            self.assertIs(pod["automountServiceAccountToken"], False)
            self.assertEqual(pod["serviceAccountName"], document["metadata"]["name"])
            self.assertIs(cluster.one("ServiceAccount", pod["serviceAccountName"])["automountServiceAccountToken"], False)

    def test_there_is_no_rbac(self):
        for cluster in self.each_cluster():
            self.assertEqual([d["kind"] for d in cluster.documents if "Role" in d["kind"]], [])

    def test_images_have_fixed_tags(self):
        for _, _, _, _, container in self.each_workload():
            self.assertRegex(container["image"], r"^.+/atoll(-demo)?:\d+\.\d+\.\d+$")

    def test_pods_carry_the_recommended_labels(self):
        for cluster in self.each_cluster():
            for _, document, template in cluster.workloads():
                for labels in (template["metadata"]["labels"], document["metadata"]["labels"]):
                    self.assertEqual([n for n in LABELS if "app.kubernetes.io/" + n not in labels], [])


def matches(selector, labels):
    return (selector or {}).get("matchLabels", {}).items() <= labels.items()


class NetworkRules(ClustersTest):
    def test_nodes_find_each_other_by_headless_services_before_they_are_ready(self):
        for cluster, _, document, _, container in self.each_workload():
            if document["kind"] != "StatefulSet":
                continue
            service = cluster.one("Service", document["spec"]["serviceName"])["spec"]
            self.assertEqual((service["clusterIP"], service["publishNotReadyAddresses"]), ("None", True))
            self.assertTrue(matches({"matchLabels": service["selector"]}, document["spec"]["template"]["metadata"]["labels"]))
            join = re.fullmatch(r"dns:([\w-]+):(\d+)", cluster.variables(container)["ATOLL_JOIN"])
            self.assertEqual((join[1], int(join[2])), ("atoll-routers", GRPC))
            cluster.one("Service", join[1])

    def test_clients_reach_routers_that_are_ready(self):
        for cluster in self.each_cluster():
            spec = cluster.one("Service", "atoll")["spec"]
            self.assertEqual(spec["selector"]["app.kubernetes.io/component"], "router")
            self.assertFalse(spec.get("publishNotReadyAddresses", False))

    def test_grpc_ports_say_their_protocol(self):
        for cluster in self.each_cluster():
            for service in cluster.all("Service"):
                for port in service["spec"]["ports"]:
                    if port["name"] == "grpc":
                        self.assertEqual((port["appProtocol"], port["port"]), ("kubernetes.io/h2c", GRPC))

    def test_ports_are_those_listened_on(self):
        for cluster, role, _, _, container in self.each_workload():
            variables = cluster.variables(container)
            listened = {kind: int(variables[f"ATOLL_{prefix}LISTEN"].rsplit(":", 1)[1]) for kind, prefix in
                        (("grpc", ""), ("health", "HEALTH_"), ("metrics", "METRICS_"), ("data", "DATA_"))}
            self.assertEqual(listened, {"grpc": GRPC, "health": HEALTH, "metrics": METRICS, "data": DATA})
            ports = {port["name"]: port["containerPort"] for port in container["ports"]}
            if role == "attention":  # has links that it opened, and listens for none
                del listened["data"]
            self.assertEqual(ports, listened)
            self.assertEqual(variables["ATOLL_ADVERTISE"], f"[$(POD_IP)]:{GRPC}")

    def peers(self, cluster, rule):
        """Who a rule's from or to means."""
        roles = {role: template["metadata"]["labels"] for role, _, template in cluster.workloads()}
        for peer in rule.get("from", rule.get("to")):
            if "ipBlock" in peer:
                self.assertEqual(peer, {"ipBlock": {"cidr": "169.254.20.10/32"}})  # a host's own DNS cache
                yield "dns"
            elif "namespaceSelector" not in peer:
                yield from (role for role, labels in roles.items() if matches(peer["podSelector"], labels))
            elif peer.get("podSelector") == {"matchLabels": {"atoll/client": "true"}}:
                yield "client"
            else:
                self.assertNotIn("podSelector", peer)
                (name,) = peer["namespaceSelector"]["matchLabels"].values()
                yield {"monitoring": "prometheus", "kube-system": "dns"}[name]

    def allowed(self, cluster, way):
        """(role, peer, protocol, port) of all policies."""
        found = set()
        for role, _, template in cluster.workloads():
            for policy in cluster.all("NetworkPolicy"):
                if matches(policy["spec"]["podSelector"], template["metadata"]["labels"]):
                    for rule in policy["spec"].get(way, []):
                        found |= {(role, peer, port["protocol"], port["port"])
                                  for peer in self.peers(cluster, rule) for port in rule["ports"]}
        return found

    def test_everything_is_denied_that_is_not_allowed(self):
        for cluster in self.each_cluster():
            (deny,) = [p for p in cluster.all("NetworkPolicy") if p["spec"]["podSelector"] == {}]
            self.assertEqual(set(deny["spec"]["policyTypes"]), {"Ingress", "Egress"})
            self.assertEqual({"ingress", "egress"} & set(deny["spec"]), set())

    def test_network_policies_allow_just_the_edges_that_exist(self):
        for cluster in self.each_cluster():
            dispatch = next(cluster.variables(t["spec"]["containers"][0])["ATOLL_DISPATCH"]
                            for role, _, t in cluster.workloads() if role == "attention")
            self.assertEqual(dispatch, "inline" if cluster.name == "gpu" or "inline" in cluster.name else "service")
            expected = EDGES | EDGES_BY_DISPATCH[dispatch]
            ingress = {(peer, role, port) for role, peer, protocol, port in self.allowed(cluster, "ingress")}
            self.assertEqual(ingress, expected)
            egress = self.allowed(cluster, "egress")
            dns = {(role, "dns", protocol, 53) for role in ("router", "attention", "expert") for protocol in ("UDP", "TCP")}
            self.assertEqual({edge for edge in egress if edge[1] == "dns"}, dns)
            self.assertEqual({(role, peer, port) for role, peer, _, port in egress - dns},
                             {edge for edge in expected if edge[0] not in ("client", "prometheus")})


def metric_names():
    """Those that the sources make."""
    names = set()
    for folder, _, files in os.walk(paths.SOURCE):
        if os.path.relpath(folder, paths.SOURCE).split(os.sep)[0] in ("tests", "build", ".git"):
            continue
        for file in files:
            if file.endswith("_metrics.cc"):
                with open(os.path.join(folder, file), encoding="utf-8") as text:
                    names |= set(re.findall(r'"(atoll_\w+)"', text.read()))
    return names


def labels_used(query):
    return set(re.findall(r"[{,]\s*(\w+)\s*(?:=|!=|=~|!~)", query)) | {
        name.strip() for group in re.findall(r"by \(([^)]*)\)", query) for name in group.split(",")}


class MonitoringRules(ClustersTest):
    def queries(self):
        """(where, query) of alerts, dashboard and KEDA."""
        cluster = self.cluster("cpu+monitoring+autoscaling/keda+inline")
        for rule in cluster.one("PrometheusRule", "atoll")["spec"]["groups"][0]["rules"]:
            yield rule["alert"], rule["expr"]
        for panel in self.dashboard()["panels"]:
            for target in panel.get("targets", []):
                yield panel["title"], target["expr"]
        for scaled in cluster.all("ScaledObject"):
            for trigger in scaled["spec"]["triggers"]:
                yield trigger["name"], trigger["metadata"]["query"]

    def dashboard(self):
        return json.loads(self.cluster("cpu+monitoring").one("ConfigMap", "atoll-dashboard")["data"]["atoll.json"])

    def test_docs_list_the_metrics_that_the_sources_make(self):
        self.assertEqual(set(documented()), metric_names())

    def test_queries_use_only_metrics_and_labels_that_exist(self):
        exist = samples()
        self.assertGreater(len(exist), 60)
        seen = 0
        for where, query in self.queries():
            with self.subTest(where, query=query):
                used = set(re.findall(r"\batoll_\w+", query))
                self.assertTrue(used or re.search(r"\bup\{", query))
                self.assertEqual(used - set(exist), set())
                # Prometheus adds namespace and pod; the rest are the binaries'.
                known = {"namespace", "pod"}.union(*(exist[name] for name in used))
                self.assertEqual(labels_used(query) - known, set())
                for codes in re.findall(r'code=~?"([^"]*)"', query):
                    self.assertEqual(set(codes.split("|")) - GRPC_CODES, set())
                seen += 1
        self.assertGreater(seen, 60)

    def test_counters_are_rated_and_quantiles_keep_their_buckets(self):
        counters = {name for name in samples() if name.endswith(("_total", "_bucket", "_sum", "_count"))}
        for where, query in self.queries():
            with self.subTest(where, query=query):
                for name in set(re.findall(r"\batoll_\w+", query)):
                    rated = re.findall(r"(?:rate|increase)\(%s(?:\{[^}]*\})?\[" % name, query)
                    self.assertEqual(len(rated), len(re.findall(r"\b%s\b" % name, query)) if name in counters else 0)
                for inner in re.findall(r"histogram_quantile\([\d.]+, (sum by \([^)]*\))", query):
                    self.assertIn("le", labels_used(inner))
                self.assertEqual(query.count("_bucket"), query.count("histogram_quantile"))

    def test_every_metric_is_looked_at(self):
        used = {name for _, query in self.queries() for name in re.findall(r"\batoll_\w+", query)}
        unseen = {name for name in documented() if not used & {name, name + "_bucket", name + "_sum", name + "_count"}}
        self.assertEqual(unseen, {"atoll_attention_cache_block_bytes", "atoll_link_sent_frames_total", "atoll_link_received_frames_total",
                                  "atoll_expert_held_busy_seconds_total"})

    def test_a_metric_that_does_not_exist_would_be_found(self):
        self.assertNotIn("atoll_router_request_total", metric_names())
        self.assertNotIn("atoll_router_queue_seconds", samples())
        self.assertEqual(samples()["atoll_router_queue_seconds_bucket"], {"le"})
        self.assertEqual(labels_used('sum by (pod, x) (a{y="1",z=~"2"})'), {"pod", "x", "y", "z"})

    def test_prometheus_scrapes_the_metrics_port_of_every_pod(self):
        cluster = self.cluster("cpu+monitoring")
        monitor = cluster.one("PodMonitor", "atoll")["spec"]
        self.assertEqual([(e["port"], e["path"]) for e in monitor["podMetricsEndpoints"]], [("metrics", "/metrics")])
        for _, _, template in cluster.workloads():
            self.assertTrue(matches(monitor["selector"], template["metadata"]["labels"]))

    def test_every_alert_has_a_section_in_the_runbook(self):
        with open(os.path.join(paths.SOURCE, "docs", "operations.md"), encoding="utf-8") as file:
            sections = set(re.findall(r"^## (.+)$", file.read(), re.M))
        for rule in self.cluster("cpu+monitoring").one("PrometheusRule", "atoll")["spec"]["groups"][0]["rules"]:
            self.assertIn(rule["annotations"]["runbook"], sections, rule["alert"])

    def test_keda_asks_for_the_namespace_that_is_deployed_to(self):
        cluster = self.cluster("cpu+monitoring+autoscaling/keda+inline")
        for scaled in cluster.all("ScaledObject"):
            for trigger in scaled["spec"]["triggers"]:
                self.assertEqual(set(re.findall(r'namespace="([^"]*)"', trigger["metadata"]["query"])), {"atoll"})

    def test_the_dashboard_has_no_two_panels_of_one_id(self):
        ids = [panel["id"] for panel in self.dashboard()["panels"]]
        self.assertEqual(len(ids), len(set(ids)))
        self.assertGreater(len(ids), 15)
