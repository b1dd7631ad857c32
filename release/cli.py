"""`sharpline register`, `gate`, `promote`, `rollback`, `canary`, `shadow`, `models follow`."""

import argparse
import os
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
from superres.common.environment import state_folder
from superres.common.errors import UsageError
from superres.common.files import file_lock
from superres.model.bundle import load_bundle

URI_VARIABLE = "SHARPLINE_MLFLOW_URI"
LOCK_SECONDS = 10.0  # a follower that was told to stop may need a moment


def register(argv: Sequence[str]) -> int:
    """Enter a bundle in the registry as the challenger of the model of its name."""
    parser = _parser("register", register)
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="a bundle folder")
    parser.add_argument(
        "--first-champion",
        action="store_true",
        help="make it champion where the model has none; else leave every alias alone",
    )
    arguments = parser.parse_args(argv)
    bundle = load_bundle(arguments.bundle)
    registry = _registry(arguments)
    version = registry.register(bundle)
    alias = _take_place(registry, version, first_champion=arguments.first_champion)
    result = {
        "model": version.model,
        "version": version.number,
        "bundle_id": version.bundle_id,
        "alias": alias,
    }
    _answer(arguments, result, f"{version.model}: {version}, {alias or 'aliases unchanged'}")
    return 0


def gate(argv: Sequence[str]) -> int:
    """Judge a challenger against the champion on held-out pictures; exit 1 when refused."""
    parser = _parser("gate", gate)
    _add_model(parser, "to judge (default: the challenger)")
    parser.add_argument(
        "--on", type=Path, required=True, metavar="PICTURES", help="a dataset, or HR pictures"
    )
    parser.add_argument(
        "--rules", type=Path, metavar="FILE", help="default: fit the model's kind and the dataset"
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
    said = "passed" if decision.passed else "refused: " + "; ".join(decision.reasons)
    _answer(
        arguments,
        result,
        f"{arguments.model} {decision.version}: {said}\n{decision.evidence or ''}",
    )
    return 0 if decision.passed else 1


def promote(argv: Sequence[str]) -> int:
    """Make a version champion on the strength of the gate's evidence for exactly its bytes."""
    parser = _parser("promote", promote)
    _add_model(parser, "to promote (default: the one that the evidence is about)")
    parser.add_argument(
        "--evidence", type=Path, required=True, metavar="PATH", help="evidence.json or its folder"
    )
    arguments = parser.parse_args(argv)
    done = promote_version(
        _registry(arguments), arguments.model, arguments.version, arguments.evidence
    )
    _answer_promotion(arguments, done)
    return 0


def rollback(argv: Sequence[str]) -> int:
    """Make the previous champion champion again."""
    parser = _parser("rollback", rollback)
    parser.add_argument("model", metavar="MODEL")
    arguments = parser.parse_args(argv)
    _answer_promotion(arguments, roll_back(_registry(arguments), arguments.model))
    return 0


def canary(argv: Sequence[str]) -> int:
    """Let a proven version answer a share of the clients in the champion's place, or none again."""
    parser = _rollout_parser("canary", canary)
    parser.add_argument("--percent", type=_percent, metavar="P", help="share of clients, 1 to 99")
    parser.add_argument(
        "--evidence",
        type=Path,
        metavar="PATH",
        help="the gate's, as for `promote`; not needed where a canary's share shrinks",
    )
    arguments = parser.parse_args(argv)
    percent: int | None = arguments.percent
    if arguments.off and (percent is not None or arguments.evidence is not None):
        parser.error("--off takes neither --percent nor --evidence")
    if not arguments.off and percent is None:
        parser.error("which share of the clients? give --percent P")
    registry = _registry(arguments)
    if percent is None:
        done = clear(registry, arguments.model, "canary")
    else:
        done = set_canary(registry, arguments.model, arguments.version, percent, arguments.evidence)
    _answer_rollout(arguments, "canary", done)
    return 0


def shadow(argv: Sequence[str]) -> int:
    """Have a version compared with the champion on live pictures; clients never see its answers."""
    arguments = _rollout_parser("shadow", shadow).parse_args(argv)
    registry = _registry(arguments)
    if arguments.off:
        _answer_rollout(arguments, "shadow", clear(registry, arguments.model, "shadow"))
    else:
        _answer_rollout(
            arguments, "shadow", set_shadow(registry, arguments.model, arguments.version)
        )
    return 0


def follow(argv: Sequence[str]) -> int:
    """Keep a folder of bundles equal to the registry's aliases, until interrupted."""
    parser = _parser("models follow", follow)
    parser.add_argument("--to", type=Path, required=True, metavar="FOLDER", help="model folder")
    parser.add_argument("--every", type=_seconds, default=5.0, metavar="SECONDS")
    parser.add_argument("--once", action="store_true", help="look once, then end")
    arguments = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, _interrupt)
    folder = arguments.to.resolve()
    try:
        # Beside the folder, not in it: what is in it belongs to the server too.
        with file_lock(
            folder.with_name(f".{folder.name}.follow.lock"), timeout_seconds=LOCK_SECONDS
        ):
            follower = Follower(_registry(arguments), folder)
            if arguments.once:
                return _poll_once(arguments, follower)
            keep_following(
                follower, arguments.every, lambda result: _answer_follow(arguments, result)
            )
    except KeyboardInterrupt:
        say("stopped following; the folder stays as it is")
    return 0


def _poll_once(arguments: argparse.Namespace, follower: Follower) -> int:
    result = follower.poll()
    for problem in result.problems:
        say(problem)
    _answer_follow(arguments, result)
    return 1 if result.problems else 0


def _take_place(registry: Registry, version: Version, *, first_champion: bool) -> str | None:
    """Give a registered version its alias and return it, None where nothing changed."""
    if first_champion:
        if make_champion(registry, version):
            return "champion"
        say(f"{version.model} has a champion already; its aliases stay as they are")
        return None
    if make_challenger(registry, version):
        return "challenger"
    say(f"{version} of {version.model} is the champion already")
    return None


def _parser(arguments: str, command: Callable[[Sequence[str]], int]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"sharpline {arguments}", description=command.__doc__)
    parser.add_argument("--json", action="store_true", help="end with one JSON line")
    parser.add_argument(
        "--registry",
        default=os.environ.get(URI_VARIABLE),
        metavar="ADDRESS",
        help=f"of the MLflow server (default: {URI_VARIABLE})",
    )
    return parser


def _add_model(parser: argparse.ArgumentParser, which: str) -> None:
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("--version", type=int, metavar="V", help=f"the version {which}")


def _rollout_parser(
    arguments: str, command: Callable[[Sequence[str]], int]
) -> argparse.ArgumentParser:
    parser = _parser(arguments, command)
    parser.add_argument("model", metavar="MODEL")
    who = parser.add_mutually_exclusive_group(required=True)
    who.add_argument("--version", type=int, metavar="V", help=f"the version to be {arguments}")
    who.add_argument("--off", action="store_true", help=f"let nobody be {arguments}")
    return parser


def _registry(arguments: argparse.Namespace) -> Registry:
    if not arguments.registry:
        raise UsageError(
            f"which registry? set {URI_VARIABLE} to the address of the MLflow server, or give "
            "--registry ADDRESS"
        )
    return Registry(arguments.registry)


def _answer(arguments: argparse.Namespace, result: Mapping[str, object], text: str) -> None:
    if arguments.json:
        emit(result)
    else:
        show(text.strip())


def _answer_promotion(arguments: argparse.Namespace, done: Promotion) -> None:
    before = None if done.before is None else done.before.number
    result = {
        "model": done.champion.model,
        "version": done.champion.number,
        "champion_before": before,
    }
    how = "is champion now" if done.changed else "was champion already"
    _answer(arguments, result, f"{done.champion.model}: {done.champion} {how}, after {before}")


def _answer_rollout(arguments: argparse.Namespace, rollout: RolloutKind, done: Rollout) -> None:
    now, before = (None if who is None else who.number for who in (done.now, done.before))
    result: dict[str, object] = {"model": done.model, rollout: now, f"{rollout}_before": before}
    text = f"{done.model}: {done.now or 'nobody'} is {rollout}, before {done.before or 'nobody'}"
    if rollout == "canary":
        result["percent"] = done.percent
        text += f"; it answers {done.percent}% of the clients" if done.now else ""
    _answer(arguments, result | {"changed": done.changed}, text)


def _answer_follow(arguments: argparse.Namespace, found: FollowResult) -> None:
    champions = {model: entry.champion for model, entry in found.index.items()}
    result = {
        "folder": str(arguments.to.resolve()),
        "changed": found.changed,
        "champions": champions,
        "problems": list(found.problems),
    }
    lines = [f"{model}: {bundle_id}" for model, bundle_id in champions.items()]
    _answer(arguments, result, "\n".join(lines) or "no model has a champion")


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value <= 3600:
        raise argparse.ArgumentTypeError("must be over 0 and at most 3600 seconds")
    return value


def _percent(text: str) -> int:
    value = int(text)
    if not 1 <= value <= 99:
        raise argparse.ArgumentTypeError("must be 1 to 99; --off ends it, `promote` makes it all")
    return value


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
