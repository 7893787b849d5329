"""What the guide says is what happens: its Python runs, its commands are commands."""

import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from PIL import Image

from causvid import cli
from causvid.media import VideoWriter

GUIDE = Path(__file__).parent.parent / "docs" / "how-to.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", GUIDE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def commands() -> list[list[str]]:
    return [shlex.split(line)[1:] for block in blocks("sh") for line in block.splitlines()]


@pytest.fixture
def inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files the guide speaks of, in a folder of their own."""
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (120, 64), (70, 110, 160)).save("lake.png")
    with VideoWriter("lake.mp4", fps=12, height=64, width=96) as writer:
        writer.write(np.full((14, 64, 96, 3), (70, 110, 160), np.uint8))
    (film,) = blocks("toml")
    Path("film.toml").write_text(film)


def test_every_block_of_python_runs(inputs: None) -> None:
    names: dict[str, Any] = {}
    for block in blocks("python"):
        exec(compile(block, str(GUIDE), "exec"), names)
    shapes = {name: tuple(names[name].shape) for name in ("first", "new", "anew", "green", "red", "video", "videos")}
    size = (64, 96, 3)
    assert shapes == {
        "first": (1, *size),
        "new": (24, *size),
        "anew": (14, *size),
        "green": (35, *size),
        "red": (35, *size),
        "video": (48, *size),
        "videos": (4, 12, *size),
    }


@pytest.mark.parametrize("arguments", commands(), ids=lambda arguments: " ".join(arguments[:2]))
def test_every_command_is_one_with_options_it_has(arguments: list[str]) -> None:
    group: Any = typer.main.get_command(cli.app)
    with group.make_context("causvid", list(arguments)) as context:
        name, command, rest = group.resolve_command(context, arguments)
        command.make_context(name, rest, parent=context)


@pytest.mark.slow
def test_every_command_runs_in_the_order_of_the_guide(inputs: None) -> None:
    for arguments in commands():
        with pytest.raises(SystemExit) as caught:
            cli.main(arguments)
        assert not caught.value.code, arguments


def test_links_within_the_guide_lead_somewhere() -> None:
    text = GUIDE.read_text(encoding="utf-8")
    heads = {
        re.sub(r"[^a-z0-9 -]", "", head.lower()).replace(" ", "-") for head in re.findall(r"^## (.*)$", text, re.M)
    }
    assert heads and set(re.findall(r"\]\(#(.*?)\)", text)) == heads
