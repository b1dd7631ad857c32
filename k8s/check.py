"""Renders every overlay and checks it against the API schemas and the rules of crosschecks.py.

`python k8s/check.py --out build/k8s` writes one file per overlay. Schemas miss an invalid quantity
(2Gib), a selector without matches and an unknown setting; crosschecks.py finds those.
"""

import argparse
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import yaml
from crosschecks import crosscheck

from superres.common.console import say

HERE = Path(__file__).parent
OLDEST_KUBERNETES = "1.31"  # PDB's unhealthyPodEvictionPolicy; sidecars and HPA by container before
NOT_IN_THE_API = frozenset({"monitoring.coreos.com/v1"})  # custom resources without a schema

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's is the faster one

Resource = dict[str, Any]


def main() -> int:
    """Return 0 if every overlay renders and is valid, else print the faults and return 1."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--out", type=Path, required=True, help="folder for the rendered overlays")
    parser.add_argument("--overlays", type=Path, default=HERE / "overlays")
    parser.add_argument("--skip-without-kubectl", action="store_true")
    arguments = parser.parse_args()
    if shutil.which("kubectl") is None:
        say("k8s: needs kubectl 1.27 or newer on PATH; nothing was rendered")
        return 0 if arguments.skip_without_kubectl else 1
    arguments.out.mkdir(parents=True, exist_ok=True)
    faults = [
        fault
        for folder in sorted(arguments.overlays.iterdir())
        for fault in check_overlay(folder, arguments.out / f"{folder.name}.yaml")
    ]
    for fault in faults:
        say(f"k8s: {fault}")
    return 1 if faults else 0


def check_overlay(folder: Path, rendered: Path) -> Iterator[str]:
    """Render one overlay into a file and yield its faults."""
    done = subprocess.run(
        ["kubectl", "kustomize", str(folder)], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        yield f"{folder.name}: kustomize failed: {done.stderr.strip()}"
        return
    rendered.write_text(done.stdout)
    resources = [resource for resource in yaml.load_all(done.stdout, LOADER) if resource]
    for resource in resources:
        for fault in schema_faults(resource):
            yield f"{folder.name}: {resource['kind']}/{resource['metadata']['name']}: {fault}"
    for fault in crosscheck(resources):
        yield f"{folder.name}: {fault}"


def schema_faults(resource: Resource) -> Iterator[str]:
    """Schema errors of the oldest supported Kubernetes version."""
    if resource["apiVersion"] in NOT_IN_THE_API:
        return
    try:
        kubernetes_validate.validate(resource, OLDEST_KUBERNETES, strict=True)
    except kubernetes_validate.ValidationError as error:
        yield f"{'.'.join(str(part) for part in error.path)}: {error.message}"
    except kubernetes_validate.SchemaNotFoundError as error:
        yield str(error)


if __name__ == "__main__":
    sys.exit(main())
