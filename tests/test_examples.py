"""Every example runs as it stands and leaves a video."""

import runpy
from pathlib import Path

import pytest

from causvid.media import probe

FOLDER = Path(__file__).parent.parent / "examples"


@pytest.mark.parametrize("script", sorted(FOLDER.glob("*.py")), ids=lambda script: script.stem)
def test_an_example_writes_videos(script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(script), run_name="__main__")
    videos = list(tmp_path.glob("*.mp4"))
    assert videos and all(probe(video).frames for video in videos)


def test_a_saved_stream_continues_where_it_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        runpy.run_path(str(FOLDER / "save_and_resume.py"), run_name="__main__")
    first, second = sorted(tmp_path.glob("swan-*.mp4"))
    assert second.stem == f"swan-{probe(first).frames:05d}"
