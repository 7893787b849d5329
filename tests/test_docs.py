"""What the pages say is what happens: their Python runs, their commands and links exist, the reference is current."""

import re
import runpy
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from PIL import Image

from causvid import cli
from causvid.media import VideoWriter

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
GUIDE = DOCS / "how-to.md"
PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *DOCS.rglob("*.md"))


def blocks(page: Path, language: str) -> list[str]:
    """Return the blocks of code on a page."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def commands(*pages: Path) -> list[list[str]]:
    """Return the arguments of every `causvid` command on some pages."""
    lines = [line for page in pages for block in blocks(page, "sh") for line in block.replace("\\\n", "").splitlines()]
    words = [shlex.split(line, comments=True) for line in lines]
    return [line[1:] for line in words if line and line[0].split("/")[-1] == "causvid"]


@pytest.fixture
def inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the files that the guide uses, in a folder of their own."""
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (120, 64), (70, 110, 160)).save("lake.png")
    with VideoWriter("lake.mp4", fps=12, height=64, width=96) as writer:
        writer.write(np.full((14, 64, 96, 3), (70, 110, 160), np.uint8))
    (timeline,) = blocks(GUIDE, "toml")
    Path("film.toml").write_text(timeline)


def test_every_block_of_python_runs(inputs: None) -> None:
    names: dict[str, Any] = {}
    for block in blocks(GUIDE, "python"):
        exec(compile(block, str(GUIDE), "exec"), names)
    expected = {"first": 1, "new": 24, "translated": 14, "green": 35, "red": 35, "resumed": 35, "video": 48}
    assert {name: tuple(names[name].shape) for name in expected} == {
        name: (frames, 128, 192, 3) for name, frames in expected.items()
    }
    assert names["videos"].shape == (4, 12, 128, 192, 3)
    assert names["clips"].shape[0] == 1


@pytest.mark.parametrize("arguments", commands(*PAGES), ids=lambda arguments: " ".join(arguments[:2]))
def test_every_command_exists_with_its_options(arguments: list[str]) -> None:
    group: Any = typer.main.get_command(cli.make_app())
    with group.make_context("causvid", list(arguments)) as context:
        name, command, rest = group.resolve_command(context, arguments)
        command.make_context(name, rest, parent=context)


@pytest.mark.slow
def test_every_command_runs_in_the_order_of_the_guide(inputs: None) -> None:
    for arguments in commands(GUIDE):
        with pytest.raises(SystemExit) as caught:
            cli.main(arguments)
        assert not caught.value.code, arguments


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\((?!https?://)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / link).exists(), link


def test_the_guide_lists_its_sections() -> None:
    text = GUIDE.read_text(encoding="utf-8")
    heads = {
        re.sub(r"[^a-z0-9 -]", "", head.lower()).replace(" ", "-") for head in re.findall(r"^## (.*)$", text, re.M)
    }
    assert heads and set(re.findall(r"\]\(#(.*?)\)", text)) == heads


def test_the_reference_is_current() -> None:
    written = runpy.run_path(str(DOCS / "make_api.py"))["reference"]()
    assert (DOCS / "api.md").read_text(encoding="utf-8") == written, "run python docs/make_api.py"
