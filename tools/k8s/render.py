"""Renders deploy/ with kubectl: every overlay, and the default one with each component that it leaves out.

kubectl is the program that ATOLL_KUBECTL names, else the one in PATH, else `kube kubectl` of the binary that KUBE_BIN
names or ./dev k8s up has built; else kustomize, in PATH or built by ./dev k8s kustomize.
"""

import contextlib
import os
import shutil
import subprocess
import tempfile

import yaml

SOURCE = os.path.realpath(os.path.join(os.path.dirname(__file__), "..", ".."))
DEPLOY = os.path.join(SOURCE, "deploy")
DEFAULT = "cpu"
# Each is a set that may be used together; networkpolicy and demo-model are in the overlays.
COMPONENTS = [
    ("monitoring",), ("autoscaling/hpa",), ("autoscaling/keda",), ("lws",), ("inline",),
    ("monitoring", "autoscaling/keda", "inline"),
]


class NoRenderer(Exception):
    """Says why there is none."""


def cache_home():
    """Where ./dev k8s up keeps its binaries (tools/kube/lib.sh)."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.environ.get("KUBE_HOME") or os.path.join(cache, "atoll", "kube")


def find_renderer():
    """The words before the folder."""
    given = os.environ.get("ATOLL_KUBECTL")
    if given:
        return [given, "kustomize"]
    if shutil.which("kubectl"):
        return ["kubectl", "kustomize"]
    for kube in (os.environ.get("KUBE_BIN"), os.path.join(cache_home(), "bin", "kube")):
        if kube and os.access(kube, os.X_OK):
            return [kube, "kubectl", "kustomize"]
    built = os.path.join(os.environ.get("ATOLL_BUILD", os.path.join(SOURCE, "build")), "tools", "kustomize")
    for kustomize_program in (shutil.which("kustomize"), built):
        if kustomize_program and os.access(kustomize_program, os.X_OK):
            return [kustomize_program, "build"]
    raise NoRenderer("neither kubectl nor kustomize: none in PATH, and neither ATOLL_KUBECTL nor KUBE_BIN names one")


def overlays():
    return sorted(os.listdir(os.path.join(DEPLOY, "overlays")))


def read(path):
    with open(path, encoding="utf-8") as file:
        return yaml.safe_load(file)


def write(path, content):
    with open(path, "w", encoding="utf-8") as file:
        yaml.safe_dump(content, file, sort_keys=False)


@contextlib.contextmanager
def copy_of_deploy(deploy=DEPLOY):
    """A copy of deploy/ to change."""
    with tempfile.TemporaryDirectory() as folder:
        copy = os.path.join(folder, "deploy")
        shutil.copytree(deploy, copy)
        yield copy


def kustomize(folder):
    """The rendered text; an error is a subprocess.CalledProcessError with stderr."""
    return subprocess.run([*find_renderer(), folder], check=True, capture_output=True, text=True).stdout


def with_components(overlay, components):
    """The overlay's rendered text with more components, as somebody would add them to its list."""
    with copy_of_deploy() as copy:
        path = os.path.join(copy, "overlays", overlay, "kustomization.yaml")
        content = read(path)
        content["components"] += ["../../components/" + name for name in components]
        write(path, content)
        return kustomize(os.path.dirname(path))


def render_all():
    """Name of each rendering -> text."""
    texts = {name: kustomize(os.path.join(DEPLOY, "overlays", name)) for name in overlays()}
    for components in COMPONENTS:
        texts["+".join((DEFAULT, *components))] = with_components(DEFAULT, components)
    return texts


def parse(text):
    return [document for document in yaml.safe_load_all(text) if document]
