"""Mutation testing of the subjects in `.ci/mutants.toml` with mutmut, on copies of the checkout.

Environment, copies and results are in `build/mutants`. A stopped run continues where it was. After
a change of a function its mutants run again, after a change of a subject's tests those that the
tests did not notice; `rm -r build/mutants/SUBJECT` starts anew. `--only` runs again those mutants
whose names match a pattern, the names that the report prints.
"""

import argparse
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tomllib
from collections import Counter
from collections.abc import Sequence
from configparser import ConfigParser
from pathlib import Path

from superres.common.console import say, show

MUTMUT = "mutmut==3.8.1"
ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build/mutants"
PACKAGES = ("sharpline", "superres", "training", "release", "serving", "pipelines")
# By exit code of a mutant's tests; mutmut defines those of pytest and its own.
OUTCOMES = {0: "survived", 1: "killed", 3: "killed", 5: "not covered", 33: "not covered"}
OUTCOMES |= dict.fromkeys((-24, 24, 36, 152, 255), "timed out")
UNNOTICED = ("survived", "not covered", "unclear")
KINDS = ("killed", "timed out", *UNNOTICED, "not run")
# A mutant may take four times as long as its tests took without it, and twenty seconds more.
OPTIONS = {"process_isolation": "forkserver", "timeout_multiplier": "4", "timeout_constant": "5"}
LEAVE_OUT = ("-p", "no:cacheprovider", "-p", "no:unraisableexception")
# Starting pytest takes most of a mutant's time, so only the plug-ins that the tests use are loaded.
PLUGINS = "_hypothesis_pytestplugin,pytest_asyncio.plugin,pytest_timeout,xdist.plugin,fastest_first"
QUICK = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_PLUGINS": PLUGINS}
# What `mutmut show` prints, in one process: each start of mutmut takes a second.
DIFFS = """import sys; from mutmut.mutation.diff_apply import get_diff_for_mutant
for mutant in sys.argv[1:]: print(mutant, get_diff_for_mutant(mutant), "", sep="\\n")"""


def main() -> None:
    subjects = tomllib.loads((ROOT / ".ci/mutants.toml").read_text())
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("subjects", nargs="*", default=list(subjects), metavar="SUBJECT")
    parser.add_argument("--cores", type=int, default=1)
    parser.add_argument("--only", action="append", default=[], metavar="MUTANTS")
    arguments = parser.parse_args()
    if unknown := set(arguments.subjects) - set(subjects):
        parser.error(f"no subject {', '.join(sorted(unknown))}; there are: {', '.join(subjects)}")
    os.nice(15)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that mutmut ends too
    binaries = install()
    for name in arguments.subjects:
        folder, log = BUILD / name, BUILD / f"{name}.log"
        say(f"mutants: {name}, progress in {log}")
        prepare(folder, **subjects[name])
        run = (binaries / "mutmut", "run", "--max-children", str(arguments.cores), *arguments.only)
        env = os.environ | QUICK | {"PYTHONPATH": str(ROOT / ".ci")}
        with log.open("wb") as out:
            subprocess.run(run, cwd=folder, env=env, stdout=out, stderr=out, check=True)
        report(name, folder, subjects[name]["sources"], binaries / "python")


def install() -> Path:
    """Create mutmut's environment, which sees the packages of `.venv` but not the checkout."""
    environment, packages = BUILD / MUTMUT, Path(sysconfig.get_path("purelib"))
    if not (environment / "bin/mutmut").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", environment], check=True)
        own_packages = environment / packages.relative_to(sys.prefix)
        (own_packages / "venv.pth").write_text(str(packages))
        pip = (environment / "bin/python", "-m", "pip", "-qq", "--disable-pip-version-check")
        subprocess.run([*pip, "install", "-c", ROOT / "constraints.txt", MUTMUT], check=True)
    return environment / "bin"


def prepare(folder: Path, *, sources: Sequence[str], tests: Sequence[str]) -> None:
    """Update the copy, whose files keep their times, which mutmut compares, and configure mutmut.

    If the tests changed, forget which mutants they did not notice.
    """
    listing = ("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    names = subprocess.run(listing, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in filter(lambda name: (ROOT / name).is_file(), names.split("\0")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)
    lists = {
        "source_paths": PACKAGES,
        "only_mutate": sources,
        "also_copy": ("README.md", "models"),  # some tests read them
        "pytest_add_cli_args_test_selection": tests,
        "pytest_add_cli_args": LEAVE_OUT,
    }
    config = ConfigParser()
    config["mutmut"] = OPTIONS | {key: "\n" + "\n".join(lines) for key, lines in lists.items()}
    with (folder / "setup.cfg").open("w") as file:
        config.write(file)
    files = [path for test in tests for path in (folder / test, *(folder / test).rglob("*.py"))]
    contents = b"".join(path.read_bytes() for path in sorted(files) if path.is_file())
    seen, digest = folder / "tests.sha256", hashlib.sha256(contents).hexdigest()
    if seen.exists() and seen.read_text() != digest:
        (folder / "mutants/mutmut-stats.json").unlink(missing_ok=True)
        for path in results(folder, sources):
            meta = json.loads(path.read_text())
            codes = meta["exit_code_by_key"]
            codes |= {key: None for key in codes if outcome(codes[key]) in UNNOTICED}
            path.write_text(json.dumps(meta))
    seen.write_text(digest)


def results(folder: Path, sources: Sequence[str]) -> list[Path]:
    """mutmut's results, a file for each mutated one."""
    return [path for source in sources for path in (folder / "mutants").glob(f"{source}.meta")]


def outcome(code: int | None) -> str:
    return "not run" if code is None else OUTCOMES.get(code, "unclear")


def report(name: str, folder: Path, sources: Sequence[str], python: Path) -> None:
    metas = [json.loads(path.read_text())["exit_code_by_key"] for path in results(folder, sources)]
    outcomes = {mutant: outcome(code) for codes in metas for mutant, code in codes.items()}
    unnoticed = sorted(mutant for mutant in outcomes if outcomes[mutant] in UNNOTICED)
    show(subprocess.check_output([python, "-c", DIFFS, *unnoticed], cwd=folder, text=True))
    counts = Counter(outcomes.values())
    numbers = ", ".join(f"{counts[kind]} {kind}" for kind in KINDS if counts[kind])
    score = (counts["killed"] + counts["timed out"]) / max(1, len(outcomes) - counts["not run"])
    show(f"{name}: {len(outcomes)} mutants, {numbers}; score {score:.1%}")


if __name__ == "__main__":
    main()
