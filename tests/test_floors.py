"""Imports run down the floors that docs/architecture.md draws, and never in a circle."""

import ast
import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "causvid"
PAGE = ROOT / "docs" / "architecture.md"
HEAVY = {"torch", "transformers", "diffusers", "av", "matplotlib", "tensorboard"}

Modules = dict[str, str]
"""Source by dotted name; a package has the source of its `__init__`."""


def drawn() -> str:
    """Return the tree of the architecture page."""
    (tree,) = re.findall(r"^```text\nsrc/causvid/\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    return str(tree)


def parts(tree: str) -> dict[str, int]:
    """Number the parts of a tree, lowest first: `F2  models/  …` or, on the same floor, `    nn/  …` a line."""
    names = re.findall(r"^(?:F\d| {2})  (\w+)(?:/|\.py) ", tree, re.M)
    return {name: number for number, name in enumerate(reversed(names))}


def files(tree: str) -> set[str]:
    """List the files a tree names, those inside a folder on lines indented below it."""
    named, folder = set(), ""
    for floor, path in re.findall(r"^(F\d  | {4}| {6})(\w+(?:/|\.py)) ", tree, re.M):
        inside = len(floor) == 6
        folder = folder if inside else path if path.endswith("/") else ""
        named.add(folder + path if inside else path)
    return named


def read_package() -> Modules:
    """Read every module of the package."""
    modules = {}
    for file in PACKAGE.rglob("*.py"):
        names = file.relative_to(PACKAGE.parent).with_suffix("").parts
        modules[".".join(names[:-1] if names[-1] == "__init__" else names)] = file.read_text(encoding="utf-8")
    return modules


def imported(name: str, modules: Modules) -> set[str]:
    """List the modules that one imports: in functions too, and for type checking only."""
    package = any(other.startswith(f"{name}.") for other in modules)
    found = set()
    for node in ast.walk(ast.parse(modules[name])):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            folder = name.split(".")[: len(name.split(".")) - node.level + package] if node.level else []
            origin = ".".join(filter(None, [*folder, node.module]))
            members = {f"{origin}.{alias.name}" for alias in node.names}
            found |= {member if member in modules else origin for member in members}
    return {other for other in found if other.split(".")[0] == "causvid"} - {name}


def arrows(modules: Modules) -> list[tuple[str, str]]:
    """List the imports of one part of the package by another."""
    pairs = [(name, other) for name in sorted(modules) for other in sorted(imported(name, modules))]
    return [(name, other) for name, other in pairs if part(name) and part(other) and part(name) != part(other)]


def part(name: str) -> str:
    """Return the first-level part a module belongs to; of `causvid` itself, which is the door, the empty string."""
    return f"{name}..".split(".")[1]


def arrows_up(modules: Modules, rank: dict[str, int]) -> list[str]:
    """List the imports of a part that is not drawn below the importer; parts that are not drawn at all are free."""
    pairs = [(name, other) for name, other in arrows(modules) if {part(name), part(other)} <= rank.keys()]
    return [f"{name} imports {other}" for name, other in pairs if rank[part(other)] > rank[part(name)]]


def circle(modules: Modules) -> list[str]:
    """Return the modules of a circle of imports, the first again at the end; nothing if there is none."""
    try:
        TopologicalSorter({name: imported(name, modules) for name in modules}).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_imports_run_down_the_floors() -> None:
    wrong = arrows_up(read_package(), parts(drawn()))
    assert not wrong, "these run up:\n" + "\n".join(wrong)


def test_no_imports_run_in_a_circle() -> None:
    found = circle(read_package())
    assert not found, " imports ".join(found)


def test_training_and_serving_never_meet() -> None:
    assert not [pair for pair in arrows(read_package()) if {*map(part, pair)} == {"train", "server"}]


def test_every_part_is_drawn() -> None:
    assert set(parts(drawn())) == {part(name) for name in read_package()} - {""}


def test_every_file_drawn_is_there() -> None:
    missing = [path for path in files(drawn()) if not (PACKAGE / path).exists()]
    assert not missing


@pytest.mark.parametrize(
    "statement",
    [
        "import causvid.train.loop",
        "from causvid import train",
        "from causvid.train.loop import run",
        "from ..train import loop",
        "def late():\n    from causvid.train import loop",
        "if TYPE_CHECKING:\n    from causvid.train.loop import Loop",
    ],
)
def test_an_arrow_up_is_found_however_written(statement: str) -> None:
    modules = {"causvid.nn.rope": statement, "causvid.train": "", "causvid.train.loop": ""}
    (arrow,) = arrows_up(modules, {"nn": 0, "train": 1})
    assert arrow.startswith("causvid.nn.rope imports causvid.train")
    assert arrows_up(modules, {"train": 0, "nn": 1}) == []


def test_a_circle_is_found_within_a_folder() -> None:
    modules = {
        "causvid": "",
        "causvid.nn": "",
        "causvid.nn.rope": "from .cache import Cache",
        "causvid.nn.cache": "if TYPE_CHECKING:\n    from causvid.nn import rope",
    }
    assert set(circle(modules)) == {"causvid.nn.rope", "causvid.nn.cache"}
    assert circle(modules | {"causvid.nn.cache": "import torch"}) == []


def test_settings_media_and_commands_import_nothing_heavy() -> None:
    for file in (PACKAGE / "config.py", PACKAGE / "preset.py", *PACKAGE.glob("media/*.py"), *PACKAGE.glob("cli/*.py")):
        body = ast.parse(file.read_text(encoding="utf-8")).body
        top = {alias.name.split(".")[0] for node in body if isinstance(node, ast.Import) for alias in node.names}
        top |= {(node.module or "").split(".")[0] for node in body if isinstance(node, ast.ImportFrom)}
        assert not top & HEAVY, f"{file.relative_to(PACKAGE)} imports {sorted(top & HEAVY)} at its head"
