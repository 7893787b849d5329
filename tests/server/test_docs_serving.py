"""The examples on the page about serving run against a real server."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from .conftest import Served

PAGE = Path(__file__).parents[2] / "docs" / "serving.md"


def blocks(language: str) -> list[str]:
    """Return the blocks of code on the page."""
    found: list[str] = re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    return found


def here(code: str, served: Served) -> str:
    """Let an example use the test's server."""
    return code.replace("127.0.0.1:8000", served.url.removeprefix("http://"))


@pytest.mark.parametrize("number", range(len(blocks("python"))))
def test_python_runs(server: Served, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(here(blocks("python")[number], server), str(PAGE), "exec"), {})
    (film,) = tmp_path.glob("*.mp4")
    assert b"ftyp" in film.read_bytes()[:16]


def test_curl_runs(server: Served) -> None:
    lines = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("curl ")]
    assert lines
    for line in lines:
        subprocess.run(["bash", "-c", here(line.replace("curl -s", "curl -sS --fail"), server)], check=True)


@pytest.mark.skipif(shutil.which("node") is None, reason="needs Node")
def test_javascript_runs(server: Served) -> None:
    (code,) = blocks("javascript")
    command = ["node", "--experimental-websocket", "--input-type=module", "--eval", here(code, server)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    positions = re.findall(r"frames (\d+) to", done.stdout)
    assert positions[0] == "0" and int(positions[-1]) > 24
