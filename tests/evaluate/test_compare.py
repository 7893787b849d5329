"""The page of a comparison keeps a vote in a real browser, and its votes are counted."""

import json
import shutil
from pathlib import Path

import pytest

from causvid.evaluate.compare import PAGE, read_votes, write_page
from causvid.evaluate.videos import Prompt, make_videos
from causvid.pipeline import Pipeline

CHROMIUM = shutil.which("chromium")
ASKED = [Prompt(text="a red swan </script>"), Prompt(text="a blue mammoth")]


@pytest.fixture
def page(small: Pipeline, tmp_path: Path) -> Path:
    for name, steps in (("one", 3), ("two", 1)):
        make_videos(small, ASKED, tmp_path / name, seconds=1.0, steps=steps)
    assert write_page(tmp_path / "one", tmp_path / "two", tmp_path / "page", seed=1) == 2
    return tmp_path / "page"


def test_pairs_are_matched_by_prompt_and_seed(small: Pipeline, page: Path, tmp_path: Path) -> None:
    assert sorted(file.name for file in page.iterdir()) == [
        "000-left.mp4", "000-right.mp4", "001-left.mp4", "001-right.mp4", PAGE,
    ]  # fmt: skip
    with pytest.raises(ValueError, match="exists: choose a new folder"):
        write_page(tmp_path / "one", tmp_path / "two", page)
    make_videos(small, ASKED, tmp_path / "three", seconds=1.0, seed=9)
    with pytest.raises(ValueError, match="share no prompt"):
        write_page(tmp_path / "one", tmp_path / "three", tmp_path / "new")
    (tmp_path / "two" / "00001-0.mkv").unlink()
    with pytest.raises(ValueError, match="is missing"):
        write_page(tmp_path / "one", tmp_path / "two", tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_votes_of_several_voters_are_counted(tmp_path: Path) -> None:
    for name, votes in (("x", ["A", "A", "B"]), ("y", ["tie", "A"])):
        text = json.dumps({"a": "one", "b": "two", "seed": 0, "votes": dict(enumerate(votes))})
        (tmp_path / name).write_text(text)
    result = read_votes([tmp_path / "x", tmp_path / "y"])
    assert (result.a, result.b, result.ties, result.wins.accuracy) == (3, 1, 1, 0.75)
    for text in ("[]", "{", '{"a": 1}', '{"a": "one", "b": "two", "seed": 0, "votes": {"0": "C"}}'):
        (tmp_path / "x").write_text(text)
        with pytest.raises(ValueError, match="expected a file that a page"):
            read_votes([tmp_path / "x"])


@pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium")
def test_a_vote_is_kept_when_the_page_is_loaded_again(page: Path, tmp_path: Path) -> None:
    playwright = pytest.importorskip("playwright.sync_api")
    wrong: list[str] = []
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        tab = browser.new_page()
        tab.on("pageerror", lambda error: wrong.append(str(error)))
        tab.goto((page / PAGE).as_uri())
        tab.wait_for_function("document.getElementById('left').readyState >= 2")
        tab.click("[data-vote=left]")
        tab.wait_for_function("document.getElementById('place').textContent.includes('1 voted on')")
        tab.reload()
        assert "Pair 2 of 2, 1 voted on" in tab.inner_text("#place")
        tab.click("#back")
        assert tab.get_attribute("[data-vote=left]", "aria-pressed") == "true"
        tab.keyboard.press("ArrowDown")
        tab.wait_for_function("document.getElementById('place').textContent.startsWith('Pair 2')")
        tab.click("#back")
        assert tab.get_attribute("[data-vote=tie]", "aria-pressed") == "true"
        tab.keyboard.press("ArrowLeft")
        with tab.expect_download() as download:
            tab.click("#save")
        download.value.save_as(tmp_path / "votes.json")
        tab.click("summary")
        shown = tab.inner_text("#rate")
        browser.close()
    result = read_votes([tmp_path / "votes.json"])
    assert result.a + result.b == 1 and wrong == []
    low, high = result.wins.interval
    assert f"(95 % interval {100 * low:.1f} % to {100 * high:.1f} %)" in shown
