"""The studio in a real browser, headless Chromium, before a real server of the built-in model."""

import contextlib
import shutil
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from tests.server.conftest import Served

from causvid.media import VideoWriter

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium")
if CHROMIUM is None:
    pytest.skip("there is no chromium", allow_module_level=True)

SWAN = "a red swan moving to the right over a lake"
PATIENCE = 30.0


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        camera = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
        yield driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", *camera])


@pytest.fixture(scope="module")
def studio(serve: Callable[..., AbstractContextManager[Served]]) -> Iterator[Served]:
    with serve(sessions=16) as served:
        yield served


@pytest.fixture
def open_page(browser: Any, studio: Served) -> Iterator[Callable[..., Any]]:
    """Return what opens the studio as a new visitor; nothing may go wrong in the page unseen."""
    wrong: list[str] = []
    with contextlib.ExitStack() as stack:

        def open_page(script: str = "", **options: Any) -> Any:
            context = browser.new_context(**options)
            stack.callback(context.close)
            page = context.new_page()
            page.set_default_timeout(1000 * PATIENCE)
            page.on("pageerror", lambda error: wrong.append(str(error)))
            if script:
                page.add_init_script(script)
            page.goto(studio.url)
            page.wait_for_selector(".chip")
            return page

        yield open_page
    assert wrong == []


@pytest.fixture
def page(open_page: Callable[..., Any]) -> Any:
    return open_page()


def until(page: Any, condition: Callable[[], Any]) -> Any:
    """Wait until a condition is true; return its value."""
    end = time.monotonic() + PATIENCE
    while not (value := condition()):
        assert time.monotonic() < end, page.inner_text("body")
        page.wait_for_timeout(50)
    return value


def positions(page: Any) -> list[int]:
    found = page.eval_on_selector_all(".panel", "all => all.map(one => Number(one.dataset.position ?? -1))")
    return [int(number) for number in found]


def plays_to(page: Any, position: int, panel: int = 0) -> None:
    until(page, lambda: len(positions(page)) > panel and positions(page)[panel] >= position)


def stands_still(page: Any) -> bool:
    before = positions(page)
    page.wait_for_timeout(700)
    return positions(page) == before


def play(page: Any, prompt: str = SWAN, position: int = 14) -> None:
    page.fill("#prompt", prompt)
    page.press("#prompt", "Enter")
    plays_to(page, position)


def marks(page: Any) -> list[str]:
    return [str(text) for text in page.eval_on_selector_all(".mark", "all => all.map(one => one.title)")]


def picture(page: Any, panel: int = 0) -> list[int]:
    """Return some pixels of a film's canvas."""
    script = """(canvas) => {
        const small = new OffscreenCanvas(12, 8), context = small.getContext("2d");
        context.drawImage(canvas, 0, 0, 12, 8);
        return [...context.getImageData(0, 0, 12, 8).data];
    }"""
    pixels: list[int] = page.locator(".picture").nth(panel).evaluate(script)
    return pixels


def distance(one: list[int], other: list[int]) -> float:
    return sum(abs(a - b) for a, b in zip(one, other, strict=True)) / len(one)


WITHOUT = {
    "h264": "",
    "webp": "delete window.VideoDecoder",
    "jpeg": "delete window.VideoDecoder; globalThis.atob = () => ''",  # its proof of WebP is an empty picture then
}


@pytest.mark.parametrize("form", WITHOUT)
def test_typed_prompt_plays_in_every_format(open_page: Callable[..., Any], form: str) -> None:
    page = open_page(WITHOUT[form])
    formats: list[str] = []
    page.on("websocket", lambda socket: socket.on("framesent", lambda text: formats.append(text)))
    play(page)
    assert f'"format":"{form}"' in formats[0]
    assert len(set(picture(page))) > 50
    assert page.inner_text("#state") == "Playing"


def test_changed_prompt_becomes_a_mark(page: Any) -> None:
    play(page)
    before = picture(page)
    page.keyboard.type("a yellow star spinning over a night city")  # typing anywhere begins a new prompt
    page.keyboard.press("Enter")
    until(page, lambda: len(marks(page)) == 2)
    assert marks(page) == [SWAN, "a yellow star spinning over a night city"]
    plays_to(page, positions(page)[0] + 30)
    assert distance(before, picture(page)) > 20
    assert page.get_attribute(".picture", "aria-label") == "a yellow star spinning over a night city"


def test_arrow_keys_and_words_steer(page: Any) -> None:
    play(page)
    page.keyboard.press("ArrowUp")
    until(page, lambda: marks(page)[-1] == "a red swan hopping up and down over a lake")
    page.get_by_role("button", name="star", exact=True).click()
    until(page, lambda: marks(page)[-1] == "a red star hopping up and down over a lake")
    assert page.input_value("#prompt") == marks(page)[-1]


def test_space_pauses_and_continues(page: Any) -> None:
    play(page)
    page.keyboard.press(" ")
    until(page, lambda: page.inner_text("#state") == "Paused")
    until(page, lambda: stands_still(page))  # what was made before is still shown
    (stopped,) = positions(page)
    page.get_by_role("button", name="Continue").click()
    plays_to(page, stopped + 5)


def test_rewind_returns_to_a_mark(page: Any) -> None:
    play(page)
    page.keyboard.press("ArrowUp")
    until(page, lambda: len(marks(page)) == 2)
    plays_to(page, positions(page)[0] + 24)
    (far,) = positions(page)
    page.locator(".mark").first.click()
    page.get_by_role("button", name="Rewind here").click()
    until(page, lambda: marks(page) == [SWAN] and positions(page)[0] < far - 12)
    (back,) = positions(page)
    plays_to(page, back + 8)
    assert page.input_value("#prompt") == SWAN


def test_fork_plays_two_futures(page: Any) -> None:
    play(page, position=20)
    page.locator(".mark").first.click()
    page.get_by_role("button", name="Fork here").click()
    page.keyboard.type("a yellow star spinning over a night city")
    page.keyboard.press("Enter")
    plays_to(page, 30, panel=1)
    plays_to(page, positions(page)[0] + 5)
    assert distance(picture(page, 0), picture(page, 1)) > 20
    assert page.locator(".lane").count() == 2
    page.get_by_role("button", name="Keep this").last.click()
    assert page.locator(".panel").count() == 1
    assert page.input_value("#prompt") == "a yellow star spinning over a night city"


def test_variation_is_picked(page: Any) -> None:
    page.fill("#prompt", SWAN)
    page.get_by_role("button", name="Variations").click()
    until(page, lambda: len(positions(page)) == 4 and min(positions(page)) >= 0)
    page.get_by_role("button", name="Continue with seed 2").click()
    until(page, lambda: len(positions(page)) == 1)
    plays_to(page, 14)
    assert page.input_value("#seed") == "2"


def test_dropped_picture_starts_a_film(page: Any) -> None:
    page.fill("#prompt", SWAN)
    script = """async () => {
        const canvas = new OffscreenCanvas(96, 64), context = canvas.getContext("2d");
        context.fillStyle = "rgb(240, 200, 30)";
        context.fillRect(0, 0, 96, 64);
        const file = new File([await canvas.convertToBlob()], "yellow.png", { type: "image/png" });
        const dataTransfer = new DataTransfer();
        dataTransfer.items.add(file);
        window.dispatchEvent(new DragEvent("drop", { dataTransfer, bubbles: true, cancelable: true }));
    }"""
    page.evaluate(script)
    until(page, lambda: positions(page) == [0])
    red, green, blue = (sum(picture(page)[channel::4]) / 96 for channel in range(3))
    assert red > 180 and green > 140 and blue < 120
    assert "yellow.png" in page.inner_text("#given-text")
    plays_to(page, 14)


@pytest.mark.parametrize(("way", "strength"), [("Translate it", True), ("Continue it", False)])
def test_given_video_is_translated_or_continued(page: Any, tmp_path: Path, way: str, strength: bool) -> None:
    video = tmp_path / "seen.mp4"
    with VideoWriter(video, fps=12, height=64, width=96) as writer:
        writer.write(np.full((37, 64, 96, 3), 128, np.uint8))
    page.fill("#prompt", SWAN)
    page.set_input_files("#file", video)
    page.get_by_role("button", name=way).click()
    plays_to(page, 14)
    assert page.locator("#strength-field").is_visible() == strength


def test_camera_is_translated(page: Any) -> None:
    page.fill("#prompt", SWAN)
    page.get_by_role("button", name="Camera").first.click()
    plays_to(page, 14)
    assert page.locator("#strength-field").is_visible()
    page.get_by_role("button", name="Camera").first.click()
    until(page, lambda: page.inner_text("#state") == "The film has ended")
    page.wait_for_timeout(1500)  # longer than it waits before it connects again
    assert not page.locator("#problem").is_visible()


def test_downloads_decode(page: Any) -> None:
    play(page, position=20)
    with page.expect_download() as waiting:
        page.click("#save-video")
    with av.open(str(waiting.value.path())) as film:
        assert sum(1 for _ in film.decode(video=0)) >= 13
    with page.expect_download() as waiting:
        page.click("#save-script")
    assert tomllib.loads(Path(waiting.value.path()).read_text())["shots"][0]["prompt"] == SWAN


def test_lost_connection_is_taken_up(page: Any) -> None:
    play(page)
    page.context.set_offline(True)
    until(page, lambda: page.inner_text("#state") == "Reconnecting")
    page.context.set_offline(False)
    until(page, lambda: page.inner_text("#state") == "Playing")
    plays_to(page, positions(page)[0] + 14)
    assert marks(page) == [SWAN]


def test_back_and_reload_bring_films_back(page: Any) -> None:
    play(page)
    first = page.evaluate("location.hash")
    page.get_by_role("button", name="New film").click()
    assert page.locator(".welcome").is_visible()
    page.go_back()
    until(page, lambda: page.evaluate("location.hash") == first and page.input_value("#prompt") == SWAN)
    plays_to(page, 16)
    page.reload()
    plays_to(page, 18)
    assert marks(page) == [SWAN]
    page.goto(page.url.split("#")[0] + "#no-such-session")
    until(page, lambda: "no longer kept" in page.inner_text("#problem"))
    assert page.locator(".welcome").is_visible()


def test_unknown_words_are_underlined(page: Any) -> None:
    page.fill("#prompt", "a red dragon over a lake")
    until(page, lambda: page.locator("#prompt-mirror mark").count() == 1)
    assert page.inner_text("#prompt-mirror mark") == "dragon"
    assert "“dragon”" in page.inner_text("#prompt-note")


@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_axe_finds_nothing(open_page: Callable[..., Any], scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page = open_page(color_scheme=scheme, reduced_motion="reduce")
    assert axe.run(page).violations_count == 0, axe.run(page).generate_report()
    play(page)
    page.locator(".mark").first.click()
    page.get_by_role("button", name="Fork here").click()
    plays_to(page, 14, panel=1)
    page.keyboard.type("a dragon over a lake")
    until(page, lambda: page.locator("#prompt-mirror mark").count() == 1)
    assert axe.run(page).violations_count == 0, axe.run(page).generate_report()
    page.click("#help")
    assert axe.run(page).violations_count == 0, axe.run(page).generate_report()


def test_phone_needs_no_sideways_scrolling(open_page: Callable[..., Any]) -> None:
    page = open_page(viewport={"width": 360, "height": 740}, has_touch=True)
    play(page)
    assert page.evaluate("document.documentElement.scrollWidth") == 360


WORDS = [
    (SWAN, "subject", "star", "a red star moving to the right over a lake"),
    ("an owl", "colour", "red", "a red owl"),
    ("a red cat", "subject", "owl", "a red owl"),
    ("a cat", "subject", "owl", "an owl"),
    ("a red cat", "motion", "hopping", "a red cat hopping up and down"),
    ("a red cat in a forest", "motion", "moving left", "a red cat moving to the left in a forest"),
    ("a cat flying left over a lake at night", "motion", "spinning", "a cat spinning over a lake at night"),
    (SWAN, "place", "forest", "a red swan moving to the right in a forest"),
    ("a cat hopping, at night", "place", "lake", "a cat hopping over a lake, at night"),
    ("a cat on the moon", "time", "sunset", "a cat on the moon, at sunset"),
    ("a cat over a lake, at night", "time", "day", "a cat over a lake"),
    ("a cat over a lake, in the rain", "weather", "fog", "a cat over a lake, in the fog"),
    ("", "subject", "owl", "an owl"),
]


def test_words_are_replaced_or_added(page: Any) -> None:
    script = """async (cases) => {
        const { setWord } = await import("/js/words.js");
        const vocabulary = { subject: ["owl", "cat", "swan", "star"], colour: ["red", "blue"] };
        return cases.map(([prompt, kind, word]) => setWord(prompt, kind, word, vocabulary));
    }"""
    assert page.evaluate(script, [list(case[:3]) for case in WORDS]) == [case[3] for case in WORDS]
