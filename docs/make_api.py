"""Write docs/api.md, the reference of the public names, from their source: `python docs/make_api.py`.

Read with `ast`, so that signatures and defaults appear as they are written and nothing is imported.
"""

import ast
import re
from collections.abc import Iterator
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


def reference() -> str:
    """Return the whole page."""
    return "\n".join([INTRODUCTION, *(part for package in PUBLIC for part in describe_package(package))])


def describe_package(package: str) -> Iterator[str]:
    """Yield the sections of a package: every class and function its `__init__` re-exports."""
    yield f"## {package}\n"
    homes = {}
    for node in ast.walk(ast.parse((SOURCE / package.replace(".", "/") / "__init__.py").read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("causvid."):
            homes.update({alias.name: SOURCE / f"{str(node.module).replace('.', '/')}.py" for alias in node.names})
    for name, file in sorted(homes.items()):
        source = file.read_text(encoding="utf-8")
        for node in ast.parse(source).body:
            if isinstance(node, Documented) and node.name == name:
                yield from describe(node, source.splitlines(), f"### {name}")


def describe(node: Documented, lines: list[str], heading: str) -> Iterator[str]:
    """Yield heading, signature, docstring, and of a class its fields and public methods."""
    yield f"{heading}\n"
    if not isinstance(node, ast.ClassDef):
        yield code([*decorators(node), *signature(node, lines)])
        yield prose(node)
        return
    yield prose(node)
    fields = [part for part in node.body if isinstance(part, ast.AnnAssign) and ast.unparse(part.target)[0] != "_"]
    if fields:
        yield code([line for part in fields for line in lines[part.lineno - 1 : part.end_lineno]])
    for part in node.body:
        if isinstance(part, Function) and is_public(part):
            title = node.name if part.name == "__init__" else f"{node.name}.{part.name}"
            yield from describe(part, lines, f"#### {title}")


def is_public(node: Function) -> bool:
    """Tell whether a method is to be shown: no private one, and a property once."""
    setter = any(ast.unparse(decorator).endswith(".setter") for decorator in node.decorator_list)
    return not setter and (node.name[0] != "_" or (node.name == "__init__" and ast.get_docstring(node) is not None))


def decorators(node: Function) -> list[str]:
    """Return the decorators to show."""
    return [f"@{name}" for name in map(ast.unparse, node.decorator_list) if name in SHOWN]


def signature(node: Function, lines: list[str]) -> list[str]:
    """Return a function's head as it is written."""
    return cleandoc("\n".join(lines[node.lineno - 1 : node.body[0].lineno - 1])).removesuffix(":").splitlines()


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
