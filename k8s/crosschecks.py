"""Checks of rendered manifests that schemas miss: quantities, selectors, ports, names, settings."""

import re
from collections.abc import Callable, Iterator
from typing import Any

from serving.settings import variable_names
from superres.common.environment import SHARED

Resource = dict[str, Any]
Rule = Callable[[list[Resource]], Iterator[str]]

QUANTITY = re.compile(r"[0-9]+(\.[0-9]+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?")


def crosscheck(resources: list[Resource]) -> Iterator[str]:
    """Every fault in a rendered overlay, with its resource."""
    for rule in RULES:
        yield from rule(resources)


def quantities(resources: list[Resource]) -> Iterator[str]:
    """Amounts of memory, CPU and storage are valid Kubernetes quantities."""
    for resource in resources:
        for path, value in _walk(resource):
            is_amount = path[-1] in ("sizeLimit", "storage") or path[-2:-1] in (
                ("requests",),
                ("limits",),
            )
            if is_amount and not QUANTITY.fullmatch(str(value)):
                yield f"{_name(resource)}: {'.'.join(path)}: {value!r} is not a quantity"


def selectors(resources: list[Resource]) -> Iterator[str]:
    """Every pod selector matches a pod, and a Deployment's selector its own pods."""
    pods = [template["metadata"]["labels"] for _, template in _pods(resources)]
    for deployment in _of_kind(resources, "Deployment"):
        selector = deployment["spec"]["selector"]["matchLabels"]
        if not _matches(selector, deployment["spec"]["template"]["metadata"]["labels"]):
            yield f"{_name(deployment)}: its selector {selector} does not match its pods' labels"
    for resource in resources:
        for selector in _pod_selectors(resource):
            if not any(_matches(selector, labels) for labels in pods):
                yield f"{_name(resource)}: no pod has the labels {selector}"
    services = [service["metadata"]["labels"] for service in _of_kind(resources, "Service")]
    for monitor in _of_kind(resources, "ServiceMonitor"):
        selector = monitor["spec"]["selector"]["matchLabels"]
        if not any(_matches(selector, labels) for labels in services):
            yield f"{_name(monitor)}: no Service has the labels {selector}"


def ports(resources: list[Resource]) -> Iterator[str]:
    """A container opens the target port of every Service and the port of every probe."""
    for service in _of_kind(resources, "Service"):
        open_ports = {
            port
            for _, template in _pods(resources)
            if _matches(service["spec"]["selector"], template["metadata"]["labels"])
            for container in _containers(template)
            for port in _open_ports(container)
        }
        for port in service["spec"]["ports"]:
            if port["targetPort"] not in open_ports:
                yield f"{_name(service)}: no pod behind it opens port {port['targetPort']!r}"
    for owner, template in _pods(resources):
        for container in _containers(template):
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                port = container.get(probe, {}).get("httpGet", {}).get("port")
                if port is not None and port not in _open_ports(container):
                    yield f"{_name(owner)}: {container['name']}.{probe} uses port {port!r}"


def references(resources: list[Resource]) -> Iterator[str]:
    """Referenced volumes, claims, service accounts and scale targets exist."""
    present = {(resource["kind"], resource["metadata"]["name"]) for resource in resources}
    for owner, template in _pods(resources):
        pod = template["spec"]
        volumes = {volume["name"] for volume in pod.get("volumes", [])}
        for container in _containers(template):
            for mount in container.get("volumeMounts", []):
                if mount["name"] not in volumes:
                    yield (
                        f"{_name(owner)}: {container['name']} mounts the unknown volume "
                        f"{mount['name']!r}"
                    )
        referenced = [("ServiceAccount", pod.get("serviceAccountName", "default"))]
        referenced += [
            ("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"])
            for volume in pod.get("volumes", [])
            if "persistentVolumeClaim" in volume
        ]
        yield from (
            f"{_name(owner)}: {kind}/{name} does not exist"
            for kind, name in referenced
            if (kind, name) not in present
        )
    for scaler in _of_kind(resources, "HorizontalPodAutoscaler"):
        target = scaler["spec"]["scaleTargetRef"]
        if (target["kind"], target["name"]) not in present:
            yield f"{_name(scaler)}: {target['kind']}/{target['name']} does not exist"
        for deployment in _of_kind(resources, target["kind"]):
            if deployment["metadata"]["name"] == target["name"] and (
                "replicas" in deployment["spec"]
            ):
                yield f"{_name(deployment)}: states replicas, which its autoscaler sets"


def hardening(resources: list[Resource]) -> Iterator[str]:
    """Pods are unprivileged: non-root, read-only root, memory limits, no service variables."""
    for owner, template in _pods(resources):
        pod = template["spec"]
        checks = {
            "enableServiceLinks: false": pod.get("enableServiceLinks") is False,
            "automountServiceAccountToken: false": pod.get("automountServiceAccountToken") is False,
            "runAsNonRoot": pod.get("securityContext", {}).get("runAsNonRoot") is True,
        }
        for container in _containers(template):
            context, name = container.get("securityContext", {}), container["name"]
            checks |= {
                f"{name} readOnlyRootFilesystem": context.get("readOnlyRootFilesystem") is True,
                f"{name} drop ALL": context.get("capabilities", {}).get("drop") == ["ALL"],
                f"{name} memory limit": "memory"
                in container.get("resources", {}).get("limits", {}),
            }
        yield from (
            f"{_name(owner)}: lacks {what}" for what, passed in checks.items() if not passed
        )


def settings(resources: list[Resource]) -> Iterator[str]:
    """Every SHARPLINE_* variable in a pod is a known setting."""
    known = {*variable_names(), *SHARED}
    for owner, template in _pods(resources):
        for container in _containers(template):
            for variable in container.get("env", []):
                if variable["name"].startswith("SHARPLINE_") and variable["name"] not in known:
                    yield f"{_name(owner)}: unknown setting {variable['name']}"


def grace(resources: list[Resource]) -> Iterator[str]:
    """The termination grace period covers the drain: of pictures, then of connections."""
    for owner, template in _pods(resources):
        for container in _containers(template):
            environment = {entry["name"]: entry.get("value") for entry in container.get("env", [])}
            drain_seconds = 2 * float(environment.get("SHARPLINE_DRAIN__MAX_SECONDS") or 0)
            if template["spec"].get("terminationGracePeriodSeconds", 30) < drain_seconds:
                yield (
                    f"{_name(owner)}: its termination grace period is shorter than its drain of "
                    f"{drain_seconds:.0f} s"
                )


def machines(resources: list[Resource]) -> Iterator[str]:
    """A training's MACHINES equals its Job's pods, and a headless Service names them."""
    headless = {
        service["metadata"]["name"]
        for service in _of_kind(resources, "Service")
        if service["spec"].get("clusterIP") == "None"
    }
    for job in _of_kind(resources, "Job"):
        spec, pod = job["spec"], job["spec"]["template"]["spec"]
        numbers = {"completions": spec.get("completions"), "parallelism": spec.get("parallelism")}
        numbers |= {
            entry["name"]: int(entry["value"])
            for container in pod["containers"]
            for entry in container.get("env", [])
            if entry["name"] == "MACHINES"
        }
        if len(set(numbers.values())) > 1:
            values = ", ".join(f"{name} {number}" for name, number in numbers.items())
            yield f"{_name(job)}: must be equal: {values}"
        if "subdomain" in pod and pod["subdomain"] not in headless:
            yield f"{_name(job)}: headless Service/{pod['subdomain']} does not exist"


RULES: tuple[Rule, ...] = (
    quantities,
    selectors,
    ports,
    references,
    hardening,
    settings,
    grace,
    machines,
)


def _name(resource: Resource) -> str:
    return f"{resource['kind']}/{resource['metadata']['name']}"


def _of_kind(resources: list[Resource], kind: str) -> list[Resource]:
    return [resource for resource in resources if resource["kind"] == kind]


def _pods(resources: list[Resource]) -> list[tuple[Resource, Resource]]:
    return [
        (resource, resource["spec"]["template"])
        for resource in resources
        if "template" in resource.get("spec", {})
    ]


def _containers(template: Resource) -> list[Resource]:
    return [*template["spec"].get("initContainers", []), *template["spec"]["containers"]]


def _open_ports(container: Resource) -> set[str | int]:
    return {
        port[key]
        for port in container.get("ports", [])
        for key in ("name", "containerPort")
        if key in port
    }


def _matches(selector: dict[str, str], labels: dict[str, str]) -> bool:
    return selector.items() <= labels.items()


def _pod_selectors(resource: Resource) -> Iterator[dict[str, str]]:
    spec = resource.get("spec", {})
    if resource["kind"] == "Service":
        yield spec["selector"]
    elif resource["kind"] == "PodDisruptionBudget":
        yield spec["selector"]["matchLabels"]
    elif resource["kind"] == "NetworkPolicy":
        for path, value in _walk(spec):
            if "podSelector" in path:
                yield {path[-1]: value}
    for path, value in _walk(spec):
        if "topologySpreadConstraints" in path and "matchLabels" in path:
            yield {path[-1]: value}


def _walk(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every leaf of nested mappings and lists, with its path."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _walk(inner, (*path, str(key)))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _walk(inner, (*path, str(index)))
    else:
        yield path, value
