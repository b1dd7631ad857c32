"""`sharpline register`, `gate`, `promote`, `rollback`, `canary`, `shadow`, `models follow`."""

import argparse
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType

from release.follow import Follower, FollowResult
from release.follow import follow as keep_following
from release.gate import Gate
from release.promote import (
    Promotion,
    Rollout,
    clear,
    make_challenger,
    make_champion,
    set_canary,
    set_shadow,
)
from release.promote import promote as promote_version
from release.promote import rollback as roll_back
from release.registry import Registry
from release.rules import load_rules
from release.versions import RolloutKind, Version
from superres.common.console import emit, say, show
from superres.common.environment import mlflow_uri, state_folder
from superres.common.errors import UsageError
from superres.common.files import file_lock
from superres.model.bundle import load_bundle

URI_VARIABLE = "SHARPLINE_MLFLOW_URI"
LOCK_SECONDS = 10.0  # a follower that is shutting down may still hold the lock


def register(argv: Sequence[str]) -> int:
    """Register bundles as new versions of the models of their names, with alias `challenger`."""
    parser = _parser("register", register)
    parser.add_argument("bundles", type=Path, nargs="+", metavar="BUNDLE", help="a bundle folder")
    parser.add_argument(
        "--first-champion",
        action="store_true",
        help="set the alias `champion` where the model has none; else leave the aliases unchanged",
    )
    arguments = parser.parse_args(argv)
    bundles = [load_bundle(path) for path in arguments.bundles]  # all, before any is registered
    registry = _registry(arguments)
    results: list[dict[str, object]] = []
    for done, bundle in enumerate(bundles, start=1):
        version = registry.register(bundle)
        alias = _assign_alias(registry, version, first_champion=arguments.first_champion)
        text = f"{version.model}: {version}, {alias or 'aliases unchanged'}"
        if arguments.json:
            say(f"{done} of {len(bundles)}: {text}")
        else:
            show(text)
        result: dict[str, object] = {"model": version.model, "version": version.number}
        results.append(result | {"bundle_id": version.bundle_id, "alias": alias})
    if arguments.json:
        emit(results[0] if len(results) == 1 else {"registered": results})
    return 0


def gate(argv: Sequence[str]) -> int:
    """Judge a challenger against the champion on held-out pictures; exit 1 when refused."""
    parser = _parser("gate", gate)
    _add_model(parser, "to judge (default: the challenger)")
    parser.add_argument(
        "--on", type=Path, required=True, metavar="PICTURES", help="a dataset, or HR pictures"
    )
    parser.add_argument(
        "--rules", type=Path, metavar="FILE", help="default: by the model's kind and the dataset"
    )
    arguments = parser.parse_args(argv)
    rules = load_rules(arguments.rules) if arguments.rules else None
    judge = Gate(_registry(arguments), state_folder() / "evidence")
    decision = judge.judge(arguments.model, arguments.version, arguments.on, rules)
    result = {
        "model": arguments.model,
        "version": decision.version.number,
        "passed": decision.passed,
        "evidence": str(decision.evidence) if decision.evidence else None,
        "reasons": list(decision.reasons),
        "gain_psnr": decision.gain_psnr,
    }
    outcome = "passed" if decision.passed else "refused: " + "; ".join(decision.reasons)
    _print_result(
        arguments,
        result,
        f"{arguments.model} {decision.version}: {outcome}\n{decision.evidence or ''}",
    )
    return 0 if decision.passed else 1


def promote(argv: Sequence[str]) -> int:
    """Make a version the champion; requires the gate's passing evidence for exactly its bytes."""
    parser = _parser("promote", promote)
    _add_model(parser, "to promote (default: the version of the evidence)")
    parser.add_argument(
        "--evidence", type=Path, required=True, metavar="PATH", help="evidence.json or its folder"
    )
    arguments = parser.parse_args(argv)
    registry, evidence = _registry(arguments), arguments.evidence
    promotion = promote_version(registry, arguments.model, arguments.version, evidence)
    _print_promotion(arguments, promotion)
    return 0


def rollback(argv: Sequence[str]) -> int:
    """Make the previous champion the champion again."""
    parser = _parser("rollback", rollback)
    parser.add_argument("model", metavar="MODEL")
    arguments = parser.parse_args(argv)
    _print_promotion(arguments, roll_back(_registry(arguments), arguments.model))
    return 0


def canary(argv: Sequence[str]) -> int:
    """Serve a share of the clients with a version that passed the gate, or end the canary."""
    parser = _rollout_parser("canary", canary)
    parser.add_argument("--percent", type=_percent, metavar="P", help="share of clients, 1 to 99")
    parser.add_argument(
        "--evidence",
        type=Path,
        metavar="PATH",
        help="from the gate, as for `promote`; not required to reduce the share",
    )
    arguments = parser.parse_args(argv)
    percent: int | None = arguments.percent
    if arguments.off and (percent is not None or arguments.evidence is not None):
        parser.error("--off takes neither --percent nor --evidence")
    if not arguments.off and percent is None:
        parser.error("--version needs --percent P, the share of clients")
    registry = _registry(arguments)
    if percent is None:
        rollout = clear(registry, arguments.model, "canary")
    else:
        rollout = set_canary(
            registry, arguments.model, arguments.version, percent, arguments.evidence
        )
    _print_rollout(arguments, "canary", rollout)
    return 0


def shadow(argv: Sequence[str]) -> int:
    """Compare a version with the champion on live pictures; clients never get its output."""
    arguments = _rollout_parser("shadow", shadow).parse_args(argv)
    registry = _registry(arguments)
    if arguments.off:
        _print_rollout(arguments, "shadow", clear(registry, arguments.model, "shadow"))
    else:
        _print_rollout(
            arguments, "shadow", set_shadow(registry, arguments.model, arguments.version)
        )
    return 0


def follow(argv: Sequence[str]) -> int:
    """Sync a folder of bundles with the registry's aliases, until interrupted."""
    parser = _parser("models follow", follow)
    parser.add_argument("--to", type=Path, required=True, metavar="FOLDER", help="model folder")
    parser.add_argument("--every", type=_seconds, default=5.0, metavar="SECONDS")
    parser.add_argument("--once", action="store_true", help="poll once, then exit")
    arguments = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, _interrupt)
    folder = arguments.to.resolve()
    try:
        # Next to the folder, not in it: the server reads the folder.
        with file_lock(
            folder.with_name(f".{folder.name}.follow.lock"), timeout_seconds=LOCK_SECONDS
        ):
            follower = Follower(_registry(arguments), folder)
            if arguments.once:
                return _poll_once(arguments, follower)
            keep_following(
                follower, arguments.every, lambda result: _print_follow(arguments, result)
            )
    except KeyboardInterrupt:
        say("stopped following; the folder stays unchanged")
    return 0


def _poll_once(arguments: argparse.Namespace, follower: Follower) -> int:
    result = follower.poll()
    for problem in result.problems:
        say(problem)
    _print_follow(arguments, result)
    return 1 if result.problems else 0


def _assign_alias(registry: Registry, version: Version, *, first_champion: bool) -> str | None:
    """Set the alias of a registered version; return the alias, None where nothing changed."""
    if first_champion:
        if make_champion(registry, version):
            return "champion"
        say(f"{version.model} has a champion already; its aliases stay unchanged")
        return None
    if make_challenger(registry, version):
        return "challenger"
    say(f"{version} of {version.model} is the champion already")
    return None


def _parser(name: str, command: Callable[[Sequence[str]], int]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"sharpline {name}", description=command.__doc__)
    parser.add_argument("--json", action="store_true", help="print the result as one JSON line")
    parser.add_argument(
        "--registry",
        default=mlflow_uri(),
        metavar="ADDRESS",
        help=f"address of the MLflow server (default: {URI_VARIABLE})",
    )
    return parser


def _add_model(parser: argparse.ArgumentParser, which: str) -> None:
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("--version", type=int, metavar="V", help=f"the version {which}")


def _rollout_parser(
    rollout: RolloutKind, command: Callable[[Sequence[str]], int]
) -> argparse.ArgumentParser:
    parser = _parser(rollout, command)
    parser.add_argument("model", metavar="MODEL")
    group = parser.add_mutually_exclusive_group(required=True)
    group.add_argument("--version", type=int, metavar="V", help=f"version to make the {rollout}")
    group.add_argument("--off", action="store_true", help=f"end the {rollout}")
    return parser


def _registry(arguments: argparse.Namespace) -> Registry:
    if not arguments.registry:
        raise UsageError(
            f"no registry given: set {URI_VARIABLE} to the address of the MLflow server, or give "
            "--registry ADDRESS"
        )
    return Registry(arguments.registry)


def _print_result(arguments: argparse.Namespace, result: Mapping[str, object], text: str) -> None:
    if arguments.json:
        emit(result)
    else:
        show(text.strip())


def _print_promotion(arguments: argparse.Namespace, promotion: Promotion) -> None:
    champion, previous = promotion.champion, promotion.previous
    numbers = {"version": champion.number, "previous_champion": _number(previous)}
    result: dict[str, object] = {"model": champion.model, **numbers}
    verb = "is" if promotion.changed else "was already"
    text = f"{champion.model}: {champion} {verb} the champion (previously {previous or 'none'})"
    _print_result(arguments, result, text)


def _print_rollout(arguments: argparse.Namespace, kind: RolloutKind, rollout: Rollout) -> None:
    current, previous = rollout.current, rollout.previous
    numbers = {kind: _number(current), f"previous_{kind}": _number(previous)}
    result: dict[str, object] = {"model": rollout.model, **numbers}
    text = f"{rollout.model}: {kind} is {current or 'none'} (previously {previous or 'none'})"
    if kind == "canary":
        result["percent"] = rollout.percent
        text += f", {rollout.percent}% of the clients" if current else ""
    _print_result(arguments, result | {"changed": rollout.changed}, text)


def _number(version: Version | None) -> int | None:
    return None if version is None else version.number


def _print_follow(arguments: argparse.Namespace, follow_result: FollowResult) -> None:
    champions = {model: entry.champion for model, entry in follow_result.index.items()}
    result = {
        "folder": str(arguments.to.resolve()),
        "changed": follow_result.changed,
        "champions": champions,
        "problems": list(follow_result.problems),
    }
    lines = [f"{model}: {bundle_id}" for model, bundle_id in champions.items()]
    _print_result(arguments, result, "\n".join(lines) or "no model has a champion")


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value <= 3600:
        raise argparse.ArgumentTypeError("must be over 0 and at most 3600 seconds")
    return value


def _percent(text: str) -> int:
    value = int(text)
    if not 1 <= value <= 99:
        raise argparse.ArgumentTypeError("must be 1 to 99; use --off for 0, `promote` for 100")
    return value


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
