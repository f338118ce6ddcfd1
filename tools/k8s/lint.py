#!/usr/bin/env python3
"""./dev k8s lint: renders every overlay, checks the fields strictly (kubeconform), the habits (kube-score), and that
nothing is written for nothing. What the manifests promise is tested by tests/e2e/k8s_manifests_test.py.

    lint.py --go GO --tools FOLDER     FOLDER holds kubeconform and kube-score, and gets the schemas
"""

import argparse
import os
import subprocess
import sys
import tempfile

import render
import schemas
import unused

# What kube-score would have otherwise, and why it is not so here. CPU limits are left to a flag of their own: a limit
# would stop a node in the middle of a step that others wait for.
IGNORED = {
    "container-image-pull-policy": "images have fixed tags, and clusters without a registry load them by hand",
    "statefulset-has-host-podantiaffinity": "topology spread says it, and lets two pods share a host where it must",
}
# It knows no LeaderWorkerSet, whose pods these would be.
IGNORED_WITH_LWS = ("service-targets-pod", "networkpolicy-targets-pod")


def kubeconform(tools, schema_folder, path):
    location = schema_folder + "/{{.ResourceKind}}{{.KindSuffix}}.json"
    return subprocess.run([os.path.join(tools, "kubeconform"), "-strict", "-summary", "-schema-location", location, path],
                          capture_output=True, text=True, check=False)


def kube_score(tools, path, has_lws):
    names = [*IGNORED, *(IGNORED_WITH_LWS if has_lws else ())]
    ignored = ["--ignore-container-cpu-limit", *(word for name in names for word in ("--ignore-test", name))]
    return subprocess.run([os.path.join(tools, "kube-score"), "score", "--exit-one-on-warning", "--output-format", "ci",
                           "--kubernetes-version", "v1.33", *ignored, path], capture_output=True, text=True, check=False)


def complaints(result):
    """Lines that are no praise."""
    lines = (result.stdout + result.stderr).splitlines()
    return "\n".join("  " + line for line in lines if not line.startswith("[OK]") and not line.startswith("[SKIPPED]"))


def refuses_what_is_wrong(tools, schema_folder, texts, folder):
    """Whether kubeconform finds a misspelt field in each kind that is rendered."""
    ok = True
    samples = {document["kind"]: document for text in texts for document in render.parse(text)}
    path = os.path.join(folder, "wrong.yaml")
    for kind, document in samples.items():
        wrong = dict(document)
        if "spec" in document:
            wrong["spec"] = document["spec"] | {"misspelt": 1}
        else:
            wrong["misspelt"] = 1
        render.write(path, wrong)
        if kubeconform(tools, schema_folder, path).returncode == 0:
            print(f"kubeconform takes a {kind} with a field that there is not")
            ok = False
    return ok


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--go", required=True)
    parser.add_argument("--tools", required=True)
    arguments = parser.parse_args()

    try:
        texts = render.render_all()
    except subprocess.CalledProcessError as error:
        print(error.stderr)
        return 1
    except render.NoRenderer as error:
        print(error)
        return 1
    schema_folder = os.path.join(arguments.tools, "k8s-schemas")
    schemas.make(arguments.go, schema_folder)
    code = 0
    with tempfile.TemporaryDirectory() as folder:
        if not refuses_what_is_wrong(arguments.tools, schema_folder, texts.values(), folder):
            code = 1
        for name, text in texts.items():
            path = os.path.join(folder, name.replace("/", "-") + ".yaml")
            with open(path, "w", encoding="utf-8") as file:
                file.write(text)
            for tool, result in (("kubeconform", kubeconform(arguments.tools, schema_folder, path)),
                                 ("kube-score", kube_score(arguments.tools, path, "lws" in name))):
                if result.returncode != 0:
                    code = 1
                    print(f"{name}: {tool}\n{complaints(result)}")
            print(f"{name}: {len(render.parse(text))} objects")
    for problem in unused.find():
        code = 1
        print(problem)
    print("k8s lint: nothing found" if code == 0 else "k8s lint: see above")
    return code


if __name__ == "__main__":
    sys.exit(main())
