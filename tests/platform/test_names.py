"""Names that the field's terms have replaced stay away, and the glossary says what is true."""

import ast
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
RETIRED = {
    kind: frozenset(names)
    for kind, names in tomllib.loads(
        Path(__file__).with_name("retired_names.toml").read_text()
    ).items()
}
GLOSSARY = ROOT / "docs" / "glossary.md"
GLOSSARY_ROW = re.compile(
    r"^\| (?P<term>[^|]+) \| (?P<meaning>[^|]+) \| `(?P<where>[^`|]+)` \|$", re.M
)
MAX_TERMS = 60


def defined_names(source: str) -> Iterator[tuple[str, str]]:
    """(kind, name) of every class, function, parameter, variable and attribute defined."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ClassDef):
            yield "class", node.name
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield "function", node.name
        elif isinstance(node, ast.arg):
            yield "variable", node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield "variable", node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield "variable", node.attr


def retired_in(path: str, source: str) -> list[str]:
    """What a file defines under a name that is retired, and its own name where that is one."""
    names = {
        *defined_names(source),
        *(("module", part) for part in Path(path).with_suffix("").parts),
    }
    return sorted(
        f"{path}: {kind} {name}" for kind, name in names if name.strip("_") in RETIRED[kind]
    )


def test_no_retired_name_comes_back() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    found = [
        fault
        for path in listed
        if (ROOT / path).is_file()
        for fault in retired_in(path, (ROOT / path).read_text())
    ]
    assert not found, "use the term of docs/glossary.md instead:\n" + "\n".join(found)
