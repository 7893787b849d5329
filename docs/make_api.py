"""Write docs/api.md, the reference of the public names, from their source: `python docs/make_api.py`.

Read with `ast`, so that signatures and defaults appear as they are written and nothing is imported.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from inspect import cleandoc
from pathlib import Path

DOCS = Path(__file__).parent
SOURCE = DOCS.parent / "src"
PUBLIC = ("causvid", "causvid.media")
"""Packages whose `__init__` re-exports public names."""
SHOWN = {"property", "classmethod", "staticmethod"}
"""Decorators that a caller needs to know of."""
INTRODUCTION = """\
# API reference

Written by `docs/make_api.py` from the docstrings: change those, not this page. [How to](how-to.md) shows the same names
in use.
"""

Function = ast.FunctionDef | ast.AsyncFunctionDef
Documented = Function | ast.ClassDef


@dataclass(frozen=True)
class Definition:
    """A class or function where it is written."""

    node: Documented
    file: Path

    def lines(self, first: int, stop: int) -> list[str]:
        """Return lines of its file, counted from 1, without `stop`."""
        return self.file.read_text(encoding="utf-8").splitlines()[first - 1 : stop - 1]


def reference() -> str:
    """Return the whole page."""
    return "\n".join([INTRODUCTION, *(part for package in PUBLIC for part in describe_package(package))])


def describe_package(package: str) -> Iterator[str]:
    """Yield the sections of a package: every class and function its `__init__` re-exports."""
    yield f"## {package}\n"
    file = SOURCE / package.replace(".", "/") / "__init__.py"
    for name in sorted(imported(file)):
        definition = find(name, file)
        if definition is not None:
            yield from describe(definition, f"### {name}")


def imported(file: Path) -> dict[str, Path]:
    """Return the names a file imports from the package, each with the file it comes from."""
    nodes = [node for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if isinstance(node, ast.ImportFrom)]
    homes = {str(node.module): [alias.name for alias in node.names] for node in nodes}
    return {
        name: SOURCE / f"{module.replace('.', '/')}.py"
        for module, names in homes.items()
        if module.startswith("causvid.")
        for name in names
    }


def find(name: str, file: Path) -> Definition | None:
    """Find a class or function in a file, or in the one it is imported from; None for any other name."""
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, Documented) and node.name == name:
            return Definition(node, file)
    home = imported(file).get(name)
    return None if home is None or not home.exists() else find(name, home)


def describe(definition: Definition, heading: str) -> Iterator[str]:
    """Yield heading, signature, docstring, and of a class its fields and public methods."""
    node = definition.node
    yield f"{heading}\n"
    if not isinstance(node, ast.ClassDef):
        yield code([*decorators(node), *signature(node, definition)])
        yield prose(node)
        return
    yield prose(node)
    fields = dict(field for ancestor in lineage(definition) for field in own_fields(ancestor))
    if fields:
        yield "\n".join([*fields.values(), ""])
    for part in node.body:
        if isinstance(part, Function) and is_public(part):
            title = node.name if part.name == "__init__" else f"{node.name}.{part.name}"
            yield from describe(Definition(part, definition.file), f"#### {title}")


def lineage(definition: Definition) -> Iterator[Definition]:
    """Yield the base classes of a class that are in the package, then the class."""
    assert isinstance(definition.node, ast.ClassDef)
    for base in definition.node.bases:
        found = find(ast.unparse(base), definition.file)
        if found is not None:
            yield from lineage(found)
    yield definition


def own_fields(definition: Definition) -> Iterator[tuple[str, str]]:
    """Yield each public field a class declares, with a line: name, type, default, and what `Field` says of it."""
    assert isinstance(definition.node, ast.ClassDef)
    plain = Plain(definition.file)
    for part in definition.node.body:
        if isinstance(part, ast.AnnAssign) and (name := ast.unparse(part.target))[0] != "_":
            default, note = part.value, ""
            if isinstance(default, ast.Call) and ast.unparse(default.func) == "Field":
                given = {option.arg: option.value for option in default.keywords}
                note = f": {plain.text(given['description'])}" if "description" in given else ""
                default = default.args[0] if default.args else given.get("default")
            text = f"{name}: {ast.unparse(plain.visit(part.annotation))}"
            if default is not None:
                text += f" = {ast.unparse(plain.visit(default))}"
            yield name, f"- `{text}`{note}"


class Plain(ast.NodeTransformer):
    """Replace what a reader would have to look up: names that a file binds to a type or a value, and `Annotated`."""

    def __init__(self, file: Path) -> None:
        body = ast.parse(file.read_text(encoding="utf-8")).body
        self.bound = {ast.unparse(node.targets[0]): node.value for node in body if isinstance(node, ast.Assign)}

    def visit_Name(self, node: ast.Name) -> ast.AST:
        value = self.bound.get(node.id)
        if isinstance(value, ast.Subscript):
            return self.visit_Subscript(value)
        return value if isinstance(value, ast.Constant) else node

    def visit_Subscript(self, node: ast.Subscript) -> ast.AST:
        if ast.unparse(node.value) == "Annotated" and isinstance(node.slice, ast.Tuple):
            kind: ast.AST = self.visit(node.slice.elts[0])
            return kind
        return self.generic_visit(node)

    def text(self, node: ast.expr) -> str:
        """Return the string of a literal, or of an f-string whose values are bound strings."""
        parts = node.values if isinstance(node, ast.JoinedStr) else [node]
        values = [part.value if isinstance(part, ast.FormattedValue) else part for part in parts]
        return "".join(str(ast.literal_eval(self.visit(value))) for value in values)


def is_public(node: Function) -> bool:
    """Tell whether a method is to be shown: no private one, and a property once."""
    setter = any(ast.unparse(decorator).endswith(".setter") for decorator in node.decorator_list)
    return not setter and (node.name[0] != "_" or (node.name == "__init__" and ast.get_docstring(node) is not None))


def decorators(node: Function) -> list[str]:
    """Return the decorators to show."""
    return [f"@{name}" for name in map(ast.unparse, node.decorator_list) if name in SHOWN]


def signature(node: Function, definition: Definition) -> list[str]:
    """Return a function's head as it is written."""
    return cleandoc("\n".join(definition.lines(node.lineno, node.body[0].lineno))).removesuffix(":").splitlines()


def prose(node: Documented) -> str:
    """Turn a docstring into Markdown, its sections (`Args:` and the like) into lists."""
    text = ast.get_docstring(node) or ""
    for pattern, markdown in ((r"(\w+):$", r"**\1**\n"), (r" {8}(?=\S)", "  "), (r" {4}(?=\S)", "- ")):
        text = re.sub(f"^{pattern}", markdown, text, flags=re.MULTILINE)
    return f"{text}\n"


def code(lines: list[str]) -> str:
    """Return lines as a block of Python."""
    return "\n".join(["```python", *cleandoc("\n".join(lines)).splitlines(), "```\n"])


if __name__ == "__main__":
    (DOCS / "api.md").write_text(reference(), encoding="utf-8")
