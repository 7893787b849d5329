"""The latency of a new prompt, and the page about a model: it opens in a browser, goes on, and says what is missing."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from causvid.evaluate.judge import load_judge
from causvid.evaluate.page import NUMBERS, PAGE, write_report
from causvid.evaluate.switch import new_share, read_switch, switch_latency
from causvid.evaluate.videos import Prompt
from causvid.pipeline import Pipeline

CHROMIUM = shutil.which("chromium")
ASKED = [Prompt(text="a red <swan>"), Prompt(text="a blue mammoth"), Prompt(text="a red swan over the snow")]
SPEED = {"command": "causvid bench", "fps": 99.5, "stages": [{"stage": "decode", "ms": 12.25}]}


def flat(*colours: int) -> torch.Tensor:
    """Frames of one grey level each, uint8 [T, 16, 16, 3]."""
    return torch.tensor(colours, dtype=torch.uint8)[:, None, None, None].expand(-1, 16, 16, 3)


def test_the_share_of_a_new_prompt_goes_from_0_to_1() -> None:
    share = new_share(flat(50, 50, 100, 150), flat(50, 50), flat(150, 150))
    torch.testing.assert_close(share, torch.tensor([0.0, 0.0, 0.5, 1.0]))


def test_a_change_of_place_is_seen_within_two_seconds_and_one_that_is_none_never() -> None:
    pipeline = Pipeline.from_pretrained()
    first = "a red swan moving to the left over a lake"
    for mode in ("cut", "recache"):
        found = switch_latency(pipeline, first, "a red swan moving to the left over a desert", mode=mode)
        assert found.seconds is not None and found.seconds <= 2
        assert found.share[-12:].mean() > 0.7
    assert switch_latency(pipeline, first, first, before=1, after=1).seconds is None
    later = switch_latency(pipeline, first, "a red swan moving to the left over a desert", mode="cut", after=1)
    assert len(later.share) == pipeline.chunk_frames


def test_a_classifier_reads_the_new_prompt_and_not_one_that_did_not_change() -> None:
    pipeline = Pipeline.from_pretrained()
    classifier, _ = load_judge(pipeline.bundle)
    lake = {"subject": "swan", "place": "lake", "motion": "moving left", "colour": None}
    found = switch_latency(pipeline, *(f"a red swan moving to the left over a {place}" for place in ("lake", "desert")))
    read = read_switch(classifier, found, lake, lake | {"place": "desert"}, fps=pipeline.fps)
    assert read is not None and read.seconds is not None and read.seconds <= 2
    assert len(read.share) == len(found.share) and float(read.share[0]) < 0.5 < float(read.share[-1])
    stays = read_switch(classifier, found, lake | {"place": "desert"}, lake, fps=pipeline.fps)
    assert stays is not None and stays.seconds is None
    assert read_switch(classifier, found, lake, lake | {"colour": "red"}, fps=pipeline.fps) is None


def report(small: Pipeline, folder: Path, **options: Any) -> dict[str, Any]:
    return write_report(small, ASKED, folder, command="causvid report", seconds=1.5, **options)


def test_a_report_has_every_number_with_its_command_and_goes_on(small: Pipeline, tmp_path: Path) -> None:
    numbers = report(small, tmp_path, chosen="--seeds 2", speed=SPEED)
    assert json.loads((tmp_path / NUMBERS).read_text()) == numbers
    page = (tmp_path / PAGE).read_text()
    assert "causvid evaluate videos --vbench -o videos --seeds 2" in page and "12.25" in page
    assert "a red &lt;swan&gt;" in page and "<swan>" not in page and page.count("<video ") == 6
    for kind in ("judged", "streaming"):
        ((_, values),) = numbers[kind].items()
        assert all(name.replace("_", " ") in page for name in values)
    film = tmp_path / "videos" / "a blue mammoth-1.mp4"
    made = {file: file.stat().st_mtime_ns for file in film.parent.glob("*.mp4") if file != film}
    film.unlink()
    assert report(small, tmp_path, chosen="--seeds 2", speed=SPEED) == numbers
    assert film.is_file() and len(made) == 5
    with pytest.raises(ValueError, match="videos of another request"):
        report(small, tmp_path, seeds=1)


@pytest.mark.parametrize("speed", [[], {}, {"stages": [1]}, {"stages": [{"stage": "decode"}]}])
def test_what_is_no_record_of_speed_is_refused_before_a_video_is_made(
    small: Pipeline, tmp_path: Path, speed: Any
) -> None:
    with pytest.raises(ValueError, match="expected what `causvid bench --json` wrote"):
        report(small, tmp_path / "new", speed=speed)
    assert not (tmp_path / "new").exists()


def test_a_report_without_matplotlib_is_refused_first(
    small: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ValueError, match=r"pip install 'causvid\[report\]'"):
        report(small, tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium")
def test_the_page_plays_in_a_browser(small: Pipeline, tmp_path: Path) -> None:
    playwright = pytest.importorskip("playwright.sync_api")
    report(small, tmp_path)
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        tab = browser.new_page()
        tab.goto((tmp_path / PAGE).as_uri())
        tab.wait_for_function("[...document.querySelectorAll('video')].every((one) => one.readyState >= 1)")
        tab.wait_for_function("[...document.querySelectorAll('video')].some((one) => one.currentTime > 0)")
        assert tab.locator("video").count() == 6 and tab.locator("svg").count() == 2
        browser.close()
