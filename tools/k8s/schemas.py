"""JSON schemas for kubeconform, made from Go modules: Kubernetes' OpenAPI document and the CRDs of what else is used.

Strict: a field that the API does not have is refused. One file a kind, named as kubeconform's {{.ResourceKind}} and
{{.KindSuffix}} say; definitions that a kind reaches are inside its file.
"""

import json
import os
import subprocess

import yaml

KUBERNETES = ("k8s.io/kubernetes@v1.33.13", "api/openapi-spec/swagger.json")
CRDS = [
    ("github.com/kedacore/keda/v2@v2.21.0", "config/crd/bases/keda.sh_scaledobjects.yaml"),
    ("sigs.k8s.io/lws@v0.7.0", "config/crd/bases/leaderworkerset.x-k8s.io_leaderworkersets.yaml"),
    ("github.com/prometheus-operator/prometheus-operator@v0.85.0",
     "example/prometheus-operator-crd/monitoring.coreos.com_podmonitors.yaml"),
    ("github.com/prometheus-operator/prometheus-operator@v0.85.0",
     "example/prometheus-operator-crd/monitoring.coreos.com_prometheusrules.yaml"),
]
INT_OR_STRING = {"oneOf": [{"type": "string"}, {"type": "integer"}]}
QUANTITY = {"oneOf": [{"type": "string"}, {"type": "number"}]}


def module_file(go, module, path):
    """A file of a Go module, downloaded and checked by go."""
    told = subprocess.run([go, "mod", "download", "-json", module], check=True, capture_output=True, text=True,
                          cwd=os.path.dirname(os.path.abspath(__file__))).stdout
    return os.path.join(json.loads(told)["Dir"], path)


def crd_files(go):
    return [module_file(go, module, path) for module, path in CRDS]


def strict(node):
    """The schema with no other fields allowed than those it names."""
    if isinstance(node, list):
        return [strict(item) for item in node]
    if not isinstance(node, dict):
        return node
    if node.get("format") == "int-or-string" or node.get("x-kubernetes-int-or-string"):
        return INT_OR_STRING
    out = {key: strict(value) for key, value in node.items() if not key.startswith("x-") and key != "description"}
    named = isinstance(node.get("properties"), dict) and node.get("type", "object") == "object"
    if named and "additionalProperties" not in node and not node.get("x-kubernetes-preserve-unknown-fields"):
        out["additionalProperties"] = False
    return out


def definitions_of(node, definitions, found):
    """Names of the definitions that a schema reaches."""
    if isinstance(node, list):
        for item in node:
            definitions_of(item, definitions, found)
    elif isinstance(node, dict):
        name = str(node.get("$ref", "")).rsplit("/", 1)[-1]
        if name and name not in found:
            found.add(name)
            definitions_of(definitions[name], definitions, found)
        for value in node.values():
            definitions_of(value, definitions, found)
    return found


def file_name(group, version, kind):
    prefix = group.split(".")[0]
    return f"{kind}-{prefix}-{version}.json".lower() if prefix else f"{kind}-{version}.json".lower()


def write_schema(folder, group, version, kind, schema):
    with open(os.path.join(folder, file_name(group, version, kind)), "w", encoding="utf-8") as file:
        json.dump(schema, file)


def from_kubernetes(path, folder):
    with open(path, encoding="utf-8") as file:
        definitions = {name: strict(schema) | {"x": schema.get("x-kubernetes-group-version-kind", [])}
                       for name, schema in json.load(file)["definitions"].items()}
    definitions["io.k8s.apimachinery.pkg.api.resource.Quantity"] = QUANTITY
    kinds = {name: schema.pop("x", []) for name, schema in definitions.items() if isinstance(schema, dict)}
    for name, its_kinds in kinds.items():
        if len(its_kinds) != 1:
            continue
        kind = its_kinds[0]
        reached = definitions_of(definitions[name], definitions, set())
        schema = definitions[name] | {"definitions": {other: definitions[other] for other in sorted(reached)}}
        write_schema(folder, kind["group"], kind["version"], kind["kind"], schema)


def from_crd(path, folder):
    with open(path, encoding="utf-8") as file:
        spec = yaml.safe_load(file)["spec"]
    for version in spec["versions"]:
        schema = strict(version["schema"]["openAPIV3Schema"])
        schema["properties"]["metadata"] = {"type": "object"}
        write_schema(folder, spec["group"], version["name"], spec["names"]["kind"], schema)


def make(go, folder):
    """Fills `folder`, unless it was filled from the same modules."""
    mark = os.path.join(folder, "made-from.json")
    wanted = json.dumps([KUBERNETES, CRDS])
    if os.path.exists(mark):
        with open(mark, encoding="utf-8") as file:
            if file.read() == wanted:
                return
    os.makedirs(folder, exist_ok=True)
    from_kubernetes(module_file(go, *KUBERNETES), folder)
    for path in crd_files(go):
        from_crd(path, folder)
    with open(mark, "w", encoding="utf-8") as file:
        file.write(wanted)
