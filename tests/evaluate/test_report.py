"""The report of streams says what was measured, and no more."""

from pathlib import Path
from typing import Any

import torch
from PIL import Image

from causvid.evaluate.adherence import Tally
from causvid.engine.bench import Steps, gap
from causvid.evaluate.endless import Endless, Past, Span, WithoutEnd
from causvid.evaluate.report import (
    MEASURED,
    PICTURE_BYTES,
    REPORT,
    StreamMeasurements,
    StreamReport,
    render_report,
    targets,
    write_report,
)
from causvid.evaluate.streams import (
    Extension,
    Followed,
    ImageToVideo,
    PromptChange,
    PromptChanges,
    Translation,
    Translations,
    Variety,
)


def report(
    *, seen: int = 38, seam: float = 1.2, growth: float = 0.001, slowing: float = 0.04, end: int = 150
) -> StreamReport:
    """A report in which all is well, unless told otherwise."""

    def readings(correct: int, count: int = 40) -> dict[str, Tally]:
        return {name: Tally(correct=correct, count=count) for name in ("subject", "colour", "place", "motion")}

    def followed(correct: int) -> Followed:
        return Followed(seen=readings(correct), kept=readings(37))

    steps = Steps(median=seam, tenth=3.4, smooth=Tally(correct=35, count=40))
    calm = Steps(median=1.01, tenth=1.5, smooth=Tally(correct=40, count=40))
    changes = tuple(
        PromptChange(
            mode=mode,
            keep_sink=keep,
            dissolve=dissolve,
            soon=followed(seen),
            later=followed(39),
            seam=steps,
            largest=steps,
        )
        for mode in ("cut", "recache", "blend")
        for keep in (True, False)
        for dissolve in (True, False)
        if (mode, dissolve) != ("cut", True)
    )
    row: dict[str, Any] = dict(
        adherence=Tally(correct=19, count=20),
        saturation=0.41,
        contrast=0.17,
        luminance=0.53,
        chunk_ms=63.0,
        noise_ms=1.5,
    )
    spans = (
        Span(end=60.0, memory=500.0, over_early=1.01, **row),
        Span(end=120.0, memory=500.0 * (1 + growth), over_early=1.01 * (1 + slowing), **row),
    )
    runs = tuple(
        Endless(past=Past(name=name, policy="window"), spans=spans, start=readings(160, 200), end=readings(end, 200))
        for name in ("window with sink", "recomputed past")
    )
    return StreamReport(
        model="nano, finished some day",
        versions={"causvid": "1.2.3"},
        machine="A Processor, 2 cores",
        command="causvid evaluate streams -o docs/streams",
        measured=StreamMeasurements(
            prompts=40,
            seed=7,
            clip_seconds=2.0833,
            changes=PromptChanges(
                before=25,
                chunks=2,
                keeps_sink=False,
                alone_soon=followed(38),
                alone_later=followed(39),
                unchanged=calm,
                unchanged_largest=calm,
                changes=changes,
            ),
            extensions=(
                Extension(of="render", given=readings(40), kept=readings(36), seam=steps, decoded=calm, encoding=steps),
            ),
            image=ImageToVideo(image=readings(39), plain=readings(37), image_bare=readings(36), plain_bare=readings(9)),
            translations=Translations(
                default=0.7,
                alone=followed(38),
                by_strength=(
                    Translation(strength=0.5, adapt=False, followed=followed(11)),
                    Translation(strength=0.8, adapt=True, followed=followed(37)),
                ),
            ),
            variety=(Variety(mode="student", prompts=8, seeds=4, of_seeds=0.4321, of_prompts=0.8642),),
            endless=WithoutEnd(minutes=2.0, prompts=10, short_minutes=0.2, edge_seconds=6.0, runs=runs),
        ),
    )


def test_the_report_says_what_was_measured_and_whether_it_is_enough(tmp_path: Path) -> None:
    text = render_report(report(), tmp_path)
    assert "Every target is reached." in text and "NOT" not in text
    for part in ("A Processor", "causvid 1.2.3", "-o docs/streams", "seed 7", "40 held-out", "2.08 s"):
        assert part in text
    for number in (
        "95.0% (152/160), 90–97",
        "1.20",
        "3.40",
        "0.432",
        "0.50",
        "+0.10%",
        "500.5",
        "63.0",
        "1.050",
        "+4.0%",
        "0.410",
    ):
        assert number in text
    assert "0.8 with adapt. The default is 0.7." in text
    for target in targets(report()):
        assert target.wanted in text and target.measured in text
    assert "![" not in text


def test_every_target_flips_with_what_was_measured(tmp_path: Path) -> None:
    for worse, count in [
        (report(seen=35), 3),  # every mode, as the model does it unasked
        (report(seam=2.1), 3),  # recache and blend, and the extension
        (report(growth=-0.02), 2),  # less memory is not as much either
        (report(slowing=0.06), 2),
        (report(end=149), 1),
    ]:
        missed = [target for target in targets(worse) if not target.reached]
        assert len(missed) == count
        assert render_report(worse, tmp_path).count("**NOT reached**") == count
    assert gap(Tally(correct=150, count=200), Tally(correct=160, count=200)) == 5.0


def test_the_report_can_be_written_again_from_what_was_measured(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "streams"
    noise = torch.randint(256, (400, 600, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    write_report(folder, report(), {"prompt": Image.fromarray(noise.numpy())})
    assert (folder / "prompt.png").stat().st_size < PICTURE_BYTES
    text = (folder / REPORT).read_text()
    assert "](prompt.png)" in text and "](image.png)" not in text
    again = StreamReport.model_validate_json((folder / MEASURED).read_text())
    assert again == report() and render_report(again, folder) == text
