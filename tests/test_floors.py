"""Imports point down the floors of the architecture."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "src" / "causvid"
FLOORS = (
    ("flow", "config", "media", "files", "worlds", "interrupt", "seeding"),
    ("preset", "nn", "distill"),
    ("models",),
    ("loading",),
    ("engine",),
    ("stream", "timeline", "film", "pipeline"),
    ("data", "evaluate"),
    ("train", "server"),
    ("cli",),
)
FLOOR = {name: number for number, names in enumerate(FLOORS) for name in names}


def imported(source: str, module: tuple[str, ...], is_package: bool) -> set[str]:
    """Names of first-level parts of causvid that a module's source imports, in functions too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            origin = node.module or ""
            if node.level:
                folder = module[: len(module) - node.level + is_package]
                origin = ".".join((*folder, *filter(None, [node.module])))
            names.update(f"{origin}.{alias.name}" for alias in node.names)
    parts = (name.split(".") for name in names)
    return {part[1] for part in parts if part[0] == "causvid" and len(part) > 1} & FLOOR.keys()


def arrows_up(modules: dict[tuple[str, ...], str], packages: set[tuple[str, ...]]) -> list[str]:
    wrong = []
    for module, source in sorted(modules.items()):
        if len(module) == 1:  # causvid/__init__.py: the door, imported by nobody inside
            continue
        part = module[1]
        for other in sorted(imported(source, module, module in packages)):
            if other != part and FLOOR[other] >= FLOOR[part]:
                wrong.append(f"{'.'.join(module)} (F{FLOOR[part]}) imports causvid.{other} (F{FLOOR[other]})")
    return wrong


def read_package() -> tuple[dict[tuple[str, ...], str], set[tuple[str, ...]]]:
    modules, packages = {}, set()
    for file in PACKAGE.rglob("*.py"):
        module = ("causvid", *file.relative_to(PACKAGE).with_suffix("").parts)
        if module[-1] == "__init__":
            module = module[:-1]
            packages.add(module)
        modules[module] = file.read_text()
    return modules, packages


def test_every_part_has_a_floor() -> None:
    modules, _ = read_package()
    parts = {module[1] for module in modules if len(module) > 1}
    homeless = parts - FLOOR.keys()
    assert not homeless, f"not on any floor: {sorted(homeless)}"


def test_imports_point_down() -> None:
    modules, packages = read_package()
    wrong = arrows_up(modules, packages)
    assert not wrong, "arrows that run up:\n" + "\n".join(wrong)


def test_an_arrow_up_is_named_however_it_is_written() -> None:
    for statement in (
        "import causvid.train.loop",
        "from causvid import train",
        "from causvid.train.loop import run",
        "from ..train import loop",
        "def late():\n    from causvid.train import loop",
    ):
        assert arrows_up({("causvid", "nn", "rope"): statement}, set()) == [
            "causvid.nn.rope (F1) imports causvid.train (F7)"
        ]
    assert arrows_up({("causvid", "train"): "from causvid.server import app"}, set()) == [
        "causvid.train (F7) imports causvid.server (F7)"
    ]
    assert arrows_up({("causvid", "nn"): "from ..train import loop\nfrom . import rope"}, {("causvid", "nn")}) == [
        "causvid.nn (F1) imports causvid.train (F7)"
    ]


def test_neighbours_and_lower_floors_are_free() -> None:
    source = "from causvid.train.ema import Ema\nfrom causvid.flow import velocity\nfrom . import data\nimport torch"
    assert arrows_up({("causvid", "train", "loop"): source}, set()) == []


def test_config_and_media_import_nothing_heavy() -> None:
    heavy = {"torch", "transformers", "diffusers", "av", "matplotlib", "tensorboard"}
    for file in (
        PACKAGE / "config.py",
        PACKAGE / "preset.py",
        *(PACKAGE / "media").glob("*.py"),
        *(PACKAGE / "cli").glob("*.py"),
    ):
        body = ast.parse(file.read_text()).body
        top = {alias.name.split(".")[0] for node in body if isinstance(node, ast.Import) for alias in node.names}
        top |= {(node.module or "").split(".")[0] for node in body if isinstance(node, ast.ImportFrom)}
        assert not top & heavy, f"{file.relative_to(PACKAGE)} imports {sorted(top & heavy)} at its head"
