"""Measure the studio as its user feels it, in headless Chromium before a server of the built-in model.

    python benchmarks/studio.py --repeats 5 --output docs/benchmarks/studio.json

first frame: from the key to the first frame on the canvas. rate: frames shown a second while it plays. effect: from the
key to a picture that has visibly changed, after a prompt with another subject and another place.
"""

import argparse
import json
import shutil
import statistics
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, sync_playwright

from causvid.engine.memory import describe_machine
from causvid.pipeline import Pipeline
from causvid.server.run import make_server
from causvid.server.settings import ServerSettings

PROMPTS = ("a red fish moving to the right over a lake", "a yellow cat hopping over a desert")
PLAYED = 60
"""Frames over which the rate is taken, after the first 13."""
CHANGED = 15.0
"""Mean change of a pixel value, of 255, that is visible: a quarter of the way from one place to another."""
SAMPLER = """() => {
  const small = new OffscreenCanvas(12, 8), context = small.getContext("2d", { willReadFrequently: true });
  window.samples = []; window.pressed = [];
  document.addEventListener("keydown", (event) => {
    if (event.key === "Enter") window.pressed.push(performance.now());
  }, true);
  const look = () => {
    const panel = document.querySelector(".panel"), canvas = document.querySelector(".picture");
    const position = Number(panel?.dataset.position ?? -1);
    if (canvas && position >= 0 && position !== window.samples.at(-1)?.[1]) {
      context.drawImage(canvas, 0, 0, 12, 8);
      window.samples.push([performance.now(), position, [...context.getImageData(0, 0, 12, 8).data]]);
    }
    requestAnimationFrame(look);
  };
  requestAnimationFrame(look);
}"""


def press(page: Page, prompt: str) -> None:
    """Type a prompt and press the key."""
    page.fill("#prompt", prompt)
    page.press("#prompt", "Enter")


def plays_to(page: Page, position: int) -> None:
    """Wait until a frame is shown."""
    # Not `wait_for_function`: the page's policy forbids code made of text.
    while page.evaluate("Number(document.querySelector('.panel')?.dataset.position ?? -1)") < position:
        page.wait_for_timeout(50)


def once(page: Page, url: str, moment: float) -> dict[str, float]:
    """Play a film, change its prompt at a `moment` in [0, 1) of a second, and return the three times."""
    page.goto(url)
    page.wait_for_selector(".chip")
    page.evaluate(SAMPLER)
    press(page, PROMPTS[0])
    plays_to(page, 13 + PLAYED)
    page.fill("#prompt", PROMPTS[1])
    page.wait_for_timeout(1000 * moment)
    page.press("#prompt", "Enter")
    page.wait_for_timeout(4000)
    (asked, changed), shown = page.evaluate("[window.pressed, window.samples]")
    start, end = (next(at for at, position, _ in shown if position >= n) for n in (13, 13 + PLAYED))
    *_, before = (pixels for at, _, pixels in shown if at <= changed)
    effect = next(at for at, _, pixels in shown if at > changed and _distance(pixels, before) > CHANGED)
    return {
        "first frame, s": (shown[0][0] - asked) / 1000,
        "rate, frames/s": PLAYED / (end - start) * 1000,
        "effect, s": (effect - changed) / 1000,
    }


def _distance(a: list[int], b: list[int]) -> float:
    return sum(abs(x - y) for x, y in zip(a, b, strict=True)) / (0.75 * len(a))


def main() -> None:
    """Measure, print, and write what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=Path, help="a .json file for the record")
    options = parser.parse_args()
    pipeline = Pipeline.from_pretrained()
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        server = make_server(pipeline, ServerSettings.make(port=0, folder=Path(folder)))
        thread = threading.Thread(target=server.run)
        thread.start()
        try:
            while not server.started:
                time.sleep(0.05)
            url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
            browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 1280, "height": 860})
            page.goto(url)
            while not page.request.get(f"{url}/readyz").ok:
                page.wait_for_timeout(200)
            runs = [once(page, url, n / options.repeats) for n in range(options.repeats)]
            browser.close()
        finally:
            server.should_exit = True
            thread.join()
    table: dict[str, Any] = {name: [round(run[name], 3) for run in runs] for name in runs[0]}
    for name, values in table.items():
        worst = min(values) if name.startswith("rate") else max(values)
        print(f"{name:16} median {statistics.median(values):6.2f}  worst {worst:6.2f}")
    if options.output is not None:
        record = {"command": "python benchmarks/studio.py", "machine": describe_machine(), "runs": table}
        options.output.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
