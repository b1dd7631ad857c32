"""What schemas cannot see in a set of manifests: quantities, selectors, ports, names, settings."""

import re
from collections.abc import Callable, Iterator
from typing import Any

from serving.settings import variable_names
from superres.common.environment import SHARED

Resource = dict[str, Any]
Rule = Callable[[list[Resource]], Iterator[str]]

QUANTITY = re.compile(r"[0-9]+(\.[0-9]+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?")


def crosscheck(resources: list[Resource]) -> Iterator[str]:
    """Every fault in a rendered overlay, each naming its resource."""
    for rule in RULES:
        yield from rule(resources)


def quantities(resources: list[Resource]) -> Iterator[str]:
    """Amounts of memory, CPU and storage are written as Kubernetes reads them."""
    for resource in resources:
        for path, value in _walk(resource):
            is_amount = path[-1] in ("sizeLimit", "storage") or path[-2:-1] in (
                ("requests",),
                ("limits",),
            )
            if is_amount and not QUANTITY.fullmatch(str(value)):
                yield f"{_name(resource)}: {'.'.join(path)}: {value!r} is no quantity"


def selectors(resources: list[Resource]) -> Iterator[str]:
    """Whatever selects pods selects some, and a Deployment its own."""
    pods = [template["metadata"]["labels"] for _, template in _pods(resources)]
    for deployment in _of_kind(resources, "Deployment"):
        wanted = deployment["spec"]["selector"]["matchLabels"]
        if not _matches(wanted, deployment["spec"]["template"]["metadata"]["labels"]):
            yield f"{_name(deployment)}: its selector {wanted} is not among its pods' labels"
    for resource in resources:
        for wanted in _pod_selectors(resource):
            if not any(_matches(wanted, labels) for labels in pods):
                yield f"{_name(resource)}: no pod has the labels {wanted}"
    services = [service["metadata"]["labels"] for service in _of_kind(resources, "Service")]
    for monitor in _of_kind(resources, "ServiceMonitor"):
        wanted = monitor["spec"]["selector"]["matchLabels"]
        if not any(_matches(wanted, labels) for labels in services):
            yield f"{_name(monitor)}: no Service has the labels {wanted}"


def ports(resources: list[Resource]) -> Iterator[str]:
    """A Service's target and a probe's port are ports that a container opens."""
    for service in _of_kind(resources, "Service"):
        opened = {
            port
            for _, template in _pods(resources)
            if _matches(service["spec"]["selector"], template["metadata"]["labels"])
            for container in _containers(template)
            for port in _opened(container)
        }
        for port in service["spec"]["ports"]:
            if port["targetPort"] not in opened:
                yield f"{_name(service)}: no pod behind it opens port {port['targetPort']!r}"
    for owner, template in _pods(resources):
        for container in _containers(template):
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                port = container.get(probe, {}).get("httpGet", {}).get("port")
                if port is not None and port not in _opened(container):
                    yield f"{_name(owner)}: {container['name']}.{probe} asks port {port!r}"


def references(resources: list[Resource]) -> Iterator[str]:
    """Volumes, claims, accounts and scale targets that are named exist."""
    present = {(resource["kind"], resource["metadata"]["name"]) for resource in resources}
    for owner, template in _pods(resources):
        pod = template["spec"]
        volumes = {volume["name"] for volume in pod.get("volumes", [])}
        for container in _containers(template):
            for mount in container.get("volumeMounts", []):
                if mount["name"] not in volumes:
                    yield f"{_name(owner)}: {container['name']} mounts no volume {mount['name']!r}"
        named = [("ServiceAccount", pod.get("serviceAccountName", "default"))]
        named += [
            ("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"])
            for volume in pod.get("volumes", [])
            if "persistentVolumeClaim" in volume
        ]
        yield from (
            f"{_name(owner)}: there is no {kind}/{name}"
            for kind, name in named
            if (kind, name) not in present
        )
    for scaler in _of_kind(resources, "HorizontalPodAutoscaler"):
        target = scaler["spec"]["scaleTargetRef"]
        if (target["kind"], target["name"]) not in present:
            yield f"{_name(scaler)}: there is no {target['kind']}/{target['name']}"
        for deployment in _of_kind(resources, target["kind"]):
            if deployment["metadata"]["name"] == target["name"] and (
                "replicas" in deployment["spec"]
            ):
                yield f"{_name(deployment)}: states replicas, which its autoscaler owns"


def hardening(resources: list[Resource]) -> Iterator[str]:
    """Pods run as nobody, on a read-only root, with bounds, and without injected variables."""
    for owner, template in _pods(resources):
        pod = template["spec"]
        wanted = {
            "enableServiceLinks: false": pod.get("enableServiceLinks") is False,
            "automountServiceAccountToken: false": pod.get("automountServiceAccountToken") is False,
            "runAsNonRoot": pod.get("securityContext", {}).get("runAsNonRoot") is True,
        }
        for container in _containers(template):
            context, name = container.get("securityContext", {}), container["name"]
            wanted |= {
                f"{name} readOnlyRootFilesystem": context.get("readOnlyRootFilesystem") is True,
                f"{name} drop ALL": context.get("capabilities", {}).get("drop") == ["ALL"],
                f"{name} memory limit": "memory"
                in container.get("resources", {}).get("limits", {}),
            }
        yield from (f"{_name(owner)}: lacks {what}" for what, held in wanted.items() if not held)


def settings(resources: list[Resource]) -> Iterator[str]:
    """A SHARPLINE_* variable in a pod is one that the program reads."""
    known = {*variable_names(), *SHARED}
    for owner, template in _pods(resources):
        for container in _containers(template):
            for variable in container.get("env", []):
                if variable["name"].startswith("SHARPLINE_") and variable["name"] not in known:
                    yield f"{_name(owner)}: nothing reads {variable['name']}"


def grace(resources: list[Resource]) -> Iterator[str]:
    """A server is given the time that its drain may take: for pictures, then for connections."""
    for owner, template in _pods(resources):
        for container in _containers(template):
            environment = {entry["name"]: entry.get("value") for entry in container.get("env", [])}
            drain_seconds = 2 * float(environment.get("SHARPLINE_DRAIN__MAX_SECONDS") or 0)
            if template["spec"].get("terminationGracePeriodSeconds", 30) < drain_seconds:
                yield f"{_name(owner)}: is killed before its drain of {drain_seconds:.0f} s is over"


def machines(resources: list[Resource]) -> Iterator[str]:
    """A training waits for as many machines as its Job starts, at names that a Service makes."""
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
            told = ", ".join(f"{name} {number}" for name, number in numbers.items())
            yield f"{_name(job)}: these are one number: {told}"
        if "subdomain" in pod and pod["subdomain"] not in headless:
            yield f"{_name(job)}: there is no headless Service/{pod['subdomain']}"


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


def _opened(container: Resource) -> set[str | int]:
    return {
        port[key]
        for port in container.get("ports", [])
        for key in ("name", "containerPort")
        if key in port
    }


def _matches(wanted: dict[str, str], labels: dict[str, str]) -> bool:
    return wanted.items() <= labels.items()


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
