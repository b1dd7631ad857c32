"""The import rules of pyproject.toml work: forbidden imports planted in a copy are reported."""

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RULES = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
PACKAGES = ("sharpline", "superres", "training", "release", "serving", "pipelines")

# One forbidden import for each rule: the file, the import, the chain that must be reported.
PLANTED = [
    ("superres/common/files.py", "import serving", "superres.common.files -> serving"),
    ("training/__init__.py", "import release", "training -> release"),
    ("serving/__init__.py", "import basicsr", "serving -> basicsr"),
    ("pipelines/__init__.py", "import torch", "pipelines -> torch"),
    ("superres/image/codecs.py", "import torch", "superres.image.codecs -> torch"),
    ("release/__init__.py", "import mlflow", "release -> mlflow"),
    ("training/__init__.py", "import basicsr", "training -> basicsr"),
    ("training/weights/external.py", "import spandrel", "training.weights.external -> spandrel"),
    ("serving/__init__.py", "import pickle", "serving -> pickle"),
    ("serving/__init__.py", "import airflow", "serving -> airflow"),
    ("training/__init__.py", "import PIL", "training -> PIL"),
    ("serving/batching/tiles.py", "import starlette", "serving.batching.tiles -> starlette"),
    # One upward import inside each package whose sub-packages have an order.
    (
        "superres/image/resize.py",
        "import superres.model.tiling",
        "superres.image.resize -> superres.model.tiling",
    ),
    (
        "superres/model/tiling.py",
        "import superres.model.bundle",
        "superres.model.tiling -> superres.model.bundle",
    ),
    (
        "serving/batching/engine.py",
        "import serving.enhance.costs",
        "serving.batching.engine -> serving.enhance.costs",
    ),
    (
        "training/bundles/card.py",
        "import training.loop.ema",
        "training.bundles.card -> training.loop.ema",
    ),
    (
        "training/data/sources/own.py",
        "import training.data.shards.plan",
        "training.data.sources.own -> training.data.shards.plan",
    ),
]


def copy_tree(destination: Path) -> None:
    for package in PACKAGES:
        shutil.copytree(
            ROOT / package,
            destination / package,
            ignore=lambda folder, names: [
                name for name in names if Path(folder, name).is_file() and not name.endswith(".py")
            ],
        )
    shutil.copy(ROOT / "pyproject.toml", destination)


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-logo", "--no-cache"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_planted_imports_are_reported(tmp_path: Path) -> None:
    copy_tree(tmp_path)
    for file, statement, _ in PLANTED:
        path = tmp_path / file
        path.write_text(f"{path.read_text()}\n{statement}\n")
    done = lint_imports(tmp_path)
    assert done.returncode == 1
    assert "0 kept" in done.stdout
    output = " ".join(done.stdout.split())
    for _, _, chain in PLANTED:
        assert chain in output


def test_rules_name_only_modules_that_exist(tmp_path: Path) -> None:
    copy_tree(tmp_path)
    (tmp_path / "superres/model/tiling.py").unlink()
    done = lint_imports(tmp_path)
    assert done.returncode == 1
    assert "superres.model.tiling" in done.stdout


def test_a_new_subpackage_must_be_added_to_the_order(tmp_path: Path) -> None:
    copy_tree(tmp_path)
    for package in ("superres", "serving", "training", "training/data"):
        (tmp_path / package / "unplaced.py").write_text("")
    done = lint_imports(tmp_path)
    assert done.returncode == 1
    for package in ("superres", "serving", "training", "training.data"):
        assert f"{package}.unplaced" in done.stdout


@pytest.mark.parametrize("package", ["superres", "serving", "training"])
def test_every_subpackage_documents_its_content_and_imports(package: str) -> None:
    paths = [path for path in (ROOT / package).rglob("__init__.py") if path.parent.name != package]
    assert len(paths) > 5
    for path in paths:
        docstring = ast.get_docstring(ast.parse(path.read_text())) or ""
        assert 2 <= len(docstring.splitlines()) <= 6, path
        assert re.search(r"\b(May import|Imports nothing)\b", " ".join(docstring.split())), path


def names_in_first_column(package: str) -> list[str]:
    """The modules in the first column of the architecture page's table of a package, in order."""
    page = (ROOT / "docs/architecture.md").read_text()
    table = page.split(f"| {package} | |\n")[1].split("\n\n")[0]
    return re.findall(r"`(\w+)`", " ".join(row.split("|")[1] for row in table.splitlines()))


def names_in_row(package: str, name: str) -> list[str]:
    """The modules in the row of a sub-package, in order."""
    page = (ROOT / "docs/architecture.md").read_text()
    table = page.split(f"| {package} | |\n")[1]
    return re.findall(r"`(\w+)`", re.search(rf"^\| `{name}` \|(.*)$", table, re.MULTILINE)[1])


@pytest.mark.parametrize(
    "package", ["superres", "superres.model", "serving", "training", "training.data"]
)
def test_architecture_page_has_the_order_of_the_contract(package: str) -> None:
    (rule,) = [rule for rule in RULES["contracts"] if rule.get("containers") == [package]]
    parent, _, child = package.partition(".")
    names = names_in_row(parent, child) if child else names_in_first_column(package)
    assert names == " ".join(rule["layers"]).replace("|", " ").split()


def test_the_extension_table_names_files_and_registries_that_exist() -> None:
    """The table "to add, write, register, test" of the architecture page."""
    page = (ROOT / "docs/architecture.md").read_text()
    table = page.split("| to add | write | register | test |\n")[1].split("\n\n")[0]
    rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in table.splitlines()[1:]]
    assert len(rows) == 12
    for name, *cells in rows:
        paths = re.findall(r"`([\w./-]+/[\w./-]*)`", " ".join(cells))
        assert len(paths) >= 2, name
        for path in paths:
            assert (ROOT / path.replace("NAME.py", "")).exists(), (name, path)
        variable = re.match(r"`([A-Z_]+)` in `([\w./]+)`", cells[1])
        if variable is not None:
            assert re.search(rf"^{variable[1]}\b", (ROOT / variable[2]).read_text(), re.MULTILINE)


def test_no_module_is_longer_than_300_lines() -> None:
    """Except one network."""
    exceptions = {"superres/model/archs/swinir.py"}
    long = {
        str(path.relative_to(ROOT)): len(path.read_text().splitlines())
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        if len(path.read_text().splitlines()) > 300
    }
    assert set(long) <= exceptions, long


def test_the_tree_follows_the_rules() -> None:
    done = lint_imports(ROOT)
    assert done.returncode == 0, done.stdout
    assert "0 broken" in done.stdout


@pytest.mark.parametrize("package", PACKAGES)
def test_every_package_is_under_the_rules(package: str) -> None:
    layers = next(rule for rule in RULES["contracts"] if rule["type"] == "layers")
    assert package in RULES["root_packages"]
    assert package in " ".join(layers["layers"]).replace("|", " ").split()
