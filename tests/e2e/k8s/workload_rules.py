"""What deploy/ promises of a workload: its settings, its life, its resources."""

import os
import re

import render
import unused
from k8s.clusters import ClustersTest, quantity, seconds
from support import paths, run

BINARY = {"router": "atoll-router", "attention": "atoll-attention", "expert": "atoll-expert"}
GRPC, HEALTH = 8470, 8471
EXIT_S = 5  # what a process may take to end beside its drain


class WorkloadRules(ClustersTest):
    # ---- what a workload is ----

    def test_roles_are_stateful_sets_of_their_own_with_two_routers_at_least(self):
        for cluster in self.clusters:
            roles = [role for role, _, _ in cluster.workloads()]
            self.assertEqual(set(roles), set(BINARY), cluster.name)
            self.assertEqual((roles.count("router"), roles.count("attention")), (1, 1), cluster.name)
            self.assertGreaterEqual(cluster.one("StatefulSet", "atoll-routers")["spec"]["replicas"], 2)

    def test_pods_start_in_parallel_and_updates_are_rolling(self):
        for _, _, document, _, _ in self.each_workload():
            if document["kind"] == "StatefulSet":
                self.assertEqual(document["spec"]["podManagementPolicy"], "Parallel")
                self.assertEqual(document["spec"]["updateStrategy"], {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}})
            else:
                self.assertEqual(document["spec"]["rolloutStrategy"]["type"], "RollingUpdate")

    def test_pools_of_experts_may_differ_in_size_and_hardware(self):
        gpu = self.cluster("gpu")
        pools = {document["metadata"]["name"]: (document, template) for role, document, template in gpu.workloads() if role == "expert"}
        self.assertEqual(set(pools), {"atoll-experts", "atoll-experts-cpu"})
        labels = {template["metadata"]["labels"]["atoll/pool"] for _, template in pools.values()}
        self.assertEqual(labels, {"main", "cpu"})
        asks = [template["spec"]["containers"][0]["resources"]["requests"] for _, template in pools.values()]
        self.assertNotEqual(asks[0], asks[1])

    def test_a_pool_of_groups_has_the_same_pods(self):
        one = next(t for r, _, t in self.cluster("cpu").workloads() if r == "expert")
        group = next(t for r, _, t in self.cluster("cpu+lws").workloads() if r == "expert")
        self.assertEqual(one, group)

    def test_an_autoscaled_workload_names_no_count(self):
        for cluster in self.clusters:
            scaled = {d["spec"]["scaleTargetRef"]["name"] for k in ("HorizontalPodAutoscaler", "ScaledObject") for d in cluster.all(k)}
            self.assertEqual(bool(scaled), "autoscaling" in cluster.name)
            for name in scaled:
                self.assertNotIn("replicas", cluster.one("StatefulSet", name)["spec"])

    # ---- settings ----

    def test_every_variable_is_a_flag_of_the_role(self):
        for cluster, role, _, _, container in self.each_workload():
            known = set(re.findall(r"\(Env:(ATOLL_\w+)\)", run([paths.binary(BINARY[role]), "--help"]).stdout))
            self.assertIn("ATOLL_MODEL", known)
            given = {name for name in cluster.variables(container) if name.startswith("ATOLL_")}
            self.assertEqual(given - known, set())

    def test_the_binaries_take_the_settings(self):
        for cluster, role, _, _, container in self.each_workload():
            self.assertEqual(container["command"], ["/usr/bin/" + BINARY[role]])
            variables = {name: value for name, value in cluster.variables(container).items() if name.startswith("ATOLL_")}
            variables |= {"ATOLL_MODEL": "/nonexistent", "ATOLL_NAME": "a", "ATOLL_ADVERTISE": "10.0.0.1:8470",
                          "ATOLL_ZONE": "", "ATOLL_THREADS": "2"}
            variables |= {"ATOLL_RANK": "0"} if role == "router" else {}
            ended = run([paths.binary(BINARY[role])], env=variables)
            self.assertRegex(ended.stderr, r"/nonexistent.*No such file")  # the first thing after all flags

    def test_settings_are_hashed_config_maps(self):
        for cluster, _, _, _, container in self.each_workload():
            for source in container["envFrom"]:
                self.assertRegex(source["configMapRef"]["name"], r"-[0-9a-z]{10}$")

    def test_one_cluster_has_one_model_revision_and_profile(self):
        for cluster in self.clusters:
            for name in ("ATOLL_MODEL", "ATOLL_PROFILE"):
                holders = [d["metadata"]["name"] for d in cluster.all("ConfigMap") if name in d["data"]]
                self.assertEqual([re.sub(r"-\w{10}$", "", holder) for holder in holders], ["atoll-common"])
            self.assertEqual({e["name"] for _, _, t in cluster.workloads() for e in t["spec"]["containers"][0]["env"]}
                             & {"ATOLL_MODEL", "ATOLL_PROFILE"}, set())

    def test_weights_are_a_read_only_claim_with_a_revision(self):
        for cluster, _, _, pod, container in self.each_workload():
            model = cluster.variables(container)["ATOLL_MODEL"]
            volumes = [v["persistentVolumeClaim"] for v in pod["volumes"] if v["name"] == "weights"]
            if cluster.name in ("dev", "kwok-scale"):  # the model is in the image
                self.assertEqual((volumes, model), ([], "/usr/share/atoll/demo"))
                self.assertEqual(cluster.all("PersistentVolumeClaim"), [])
                continue
            self.assertEqual(volumes, [{"claimName": "atoll-weights", "readOnly": True}])
            self.assertIn({"name": "weights", "mountPath": "/models", "readOnly": True}, container["volumeMounts"])
            self.assertRegex(model, r"^/models/[\w.-]+/[\w.-]+$")
            self.assertEqual(cluster.one("PersistentVolumeClaim", "atoll-weights")["spec"]["accessModes"], ["ReadOnlyMany"])

    def test_service_links_set_no_variables(self):
        for _, _, _, pod, _ in self.each_workload():
            self.assertIs(pod["enableServiceLinks"], False)

    def test_values_used_in_others_come_before_them(self):
        for _, _, _, _, container in self.each_workload():
            seen = set()
            for entry in container["env"]:
                for used in re.findall(r"\$\((\w+)\)", entry.get("value", "")):
                    self.assertIn(used, seen)
                seen.add(entry["name"])

    # ---- living and dying ----

    def test_probes_ask_the_health_port_over_grpc(self):
        for cluster, _, _, _, container in self.each_workload():
            self.assertTrue(cluster.variables(container)["ATOLL_HEALTH_LISTEN"].endswith(f":{HEALTH}"))
            self.assertNotEqual(HEALTH, GRPC)
            for probe, service in (("startupProbe", "liveness"), ("livenessProbe", "liveness"), ("readinessProbe", "readiness")):
                self.assertEqual(container[probe]["grpc"], {"port": HEALTH, "service": service})

    def test_startup_is_given_the_time_to_load(self):
        for cluster, _, _, _, container in self.each_workload():
            probe = container["startupProbe"]
            at_least = 120 if cluster.name == "dev" else 1800
            self.assertGreaterEqual(probe["periodSeconds"] * probe["failureThreshold"], at_least)

    def test_drains_fit_the_grace_period(self):
        for cluster, role, _, pod, container in self.each_workload():
            drain = seconds(cluster.variables(container)["ATOLL_DRAIN_TIMEOUT"])
            stop = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
            self.assertGreaterEqual(pod["terminationGracePeriodSeconds"], stop + drain + EXIT_S)

    def test_routers_wait_before_they_stop_until_no_new_calls_come(self):
        for _, role, _, _, container in self.each_workload():
            self.assertEqual("preStop" in container.get("lifecycle", {}), role == "router")

    def test_each_workload_has_a_disruption_budget(self):
        for cluster, _, _, _, _ in self.each_workload():
            for role, document, template in cluster.workloads():
                labels = template["metadata"]["labels"]
                budgets = [b for b in cluster.all("PodDisruptionBudget") if b["spec"]["selector"]["matchLabels"].items() <= labels.items()]
                self.assertEqual([b["spec"]["maxUnavailable"] for b in budgets], [1])

    def test_pods_are_spread_by_zone_and_host(self):
        for _, role, document, pod, _ in self.each_workload():
            spread = {c["topologyKey"]: c for c in pod["topologySpreadConstraints"]}
            self.assertEqual(set(spread), {"topology.kubernetes.io/zone", "kubernetes.io/hostname"})
            for constraint in spread.values():
                self.assertEqual(constraint["maxSkew"], 1)
                if document["kind"] == "StatefulSet":
                    self.assertEqual(constraint["labelSelector"], document["spec"]["selector"])
            host = spread["kubernetes.io/hostname"]
            self.assertEqual(host["nodeTaintsPolicy"], "Honor")
            self.assertEqual(host["whenUnsatisfiable"], "DoNotSchedule" if role == "router" else "ScheduleAnyway")

    def test_the_dev_overlay_fits_on_one_node(self):
        dev = self.cluster("dev")
        totals = {"cpu": 0, "memory": 0}
        for _, document, template in dev.workloads():
            for name in totals:
                ask = template["spec"]["containers"][0]["resources"]["requests"][name]
                totals[name] += document["spec"]["replicas"] * quantity(ask)
        self.assertLessEqual(totals["cpu"], 1)
        self.assertLessEqual(totals["memory"], 2 * 2**30)

    # ---- resources ----

    def test_memory_requests_are_limits(self):
        for _, _, _, _, container in self.each_workload():
            resources = container["resources"]
            self.assertEqual(resources["requests"]["memory"], resources["limits"]["memory"])
            self.assertIn("cpu", resources["requests"])

    def test_budgets_fit_the_memory(self):
        for cluster, role, _, pod, container in self.each_workload():
            variables = cluster.variables(container)
            asked = {"expert": "ATOLL_MEMORY_BUDGET", "attention": "ATOLL_CACHE_BYTES"}.get(role)
            shm = sum(quantity(v["emptyDir"]["sizeLimit"]) for v in pod["volumes"] if "emptyDir" in v)
            used = quantity(variables[asked]) if asked else 0
            self.assertGreater(quantity(container["resources"]["limits"]["memory"]), 1.05 * used + shm)

    def test_threads_are_the_cpus_asked_for(self):
        for _, _, _, _, container in self.each_workload():
            threads = next(entry for entry in container["env"] if entry["name"] == "ATOLL_THREADS")
            self.assertEqual(threads["valueFrom"]["resourceFieldRef"]["resource"], "requests.cpu")

    def test_dev_shm_has_a_size_limit(self):
        for _, _, _, pod, container in self.each_workload():
            shm = next(v["emptyDir"] for v in pod["volumes"] if v["name"] == "shm")
            self.assertEqual(shm["medium"], "Memory")
            self.assertGreater(quantity(shm["sizeLimit"]), 0)
            self.assertIn({"name": "shm", "mountPath": "/dev/shm"}, container["volumeMounts"])

    def test_nothing_is_unused(self):
        self.assertEqual(unused.find(), [])

    def test_a_patch_without_a_target_would_be_found(self):
        with render.copy_of_deploy() as copy:
            name = os.path.join("overlays", "cpu", "kustomization.yaml")
            content = render.read(os.path.join(copy, name))
            self.assertEqual(unused.find(copy, only=name), [])
            content["patches"] = [{"target": {"kind": "Deployment"}, "patch": "- {op: remove, path: /spec}"}]
            render.write(os.path.join(copy, name), content)
            self.assertIn("changes nothing", "".join(unused.find(copy, only=name)))
