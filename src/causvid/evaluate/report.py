"""Write down what was measured of a model's streams: no number in the report is typed by hand.

The measurements are kept beside it as JSON, from which the same report can be written again.
"""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from causvid.config import Settings
from causvid.engine.bench import SMOOTH, Readings, Steps, gap, pooled
from causvid.evaluate.endless import EARLY_SECONDS, READ_ONE_IN, READ_SECONDS, WithoutEnd
from causvid.evaluate.markdown import POINTS, Report, Target, points, reached_section, share_within, table
from causvid.evaluate.streams import SOON, Extension, ImageToVideo, PromptChange, PromptChanges, Translations, Variety

if TYPE_CHECKING:
    from PIL.Image import Image

REPORT = "README.md"
MEASURED = "streams.json"
PICTURE_BYTES = 300_000
MEMORY = 0.01
"""Share by which memory may differ from that of the first minute."""
SLOWING = 0.05
"""Share by which a chunk's time may have grown since the first minute."""
SINKS = {True: "kept", False: "dropped"}


class StreamMeasurements(Settings):
    """Everything that was measured of one model's streams."""

    prompts: int
    seed: int
    clip_seconds: float
    changes: PromptChanges
    extensions: tuple[Extension, ...]
    image: ImageToVideo
    translations: Translations
    variety: tuple[Variety, ...]
    endless: WithoutEnd


class StreamReport(Report):
    """What was measured of one model's streams."""

    measured: StreamMeasurements


def targets(report: StreamReport) -> list[Target]:
    """Compare what was measured with what is meant to be reached; better than asked counts as reached."""
    result: list[Target] = []
    measured = report.measured
    plain = measured.image.plain

    def close(wanted: str, readings: Readings, reference: Readings, than: str) -> None:
        a, b = pooled(readings), pooled(reference)
        if a.count and b.count:
            below = gap(a, b)
            text = f"{share_within(a)} to {share_within(b)}: {points(below)}"
            result.append(Target(f"{wanted}: at most {POINTS:g} points below {than}", text, below <= POINTS))

    def smooth(name: str, steps: Steps) -> None:
        wanted = f"{name}: median seam at most {SMOOTH:g} ordinary steps"
        result.append(Target(wanted, f"{steps.median:.2f}", steps.median <= SMOOTH))

    alone = measured.changes.alone_soon
    for change in measured.changes.unasked:
        name = f"prompt, {change.mode}"
        close(f"{name}: new attribute seen within {SOON:g} s", change.soon.seen, alone.seen, "the new prompt alone")
        close(f"{name}: other attributes kept", change.soon.kept, alone.kept, "the new prompt alone")
        if change.mode != "cut":
            smooth(name, change.seam)
    for extension in measured.extensions:
        smooth(f"extension of {extension.of}s", extension.seam)
        close(f"extension of {extension.of}s: attributes kept", extension.kept, plain, "the prompt alone")
    image = measured.image
    looks = ("subject", "colour", "place")
    close("image: subject, colour, place", only(image.image, *looks), only(image.plain, *looks), "the prompt alone")
    wanted = "image, prompt without colour and place: colour, place"
    close(wanted, only(image.image_bare, *looks[1:]), only(image.plain, *looks[1:]), "a prompt that names them")
    best, translations = measured.translations.best, measured.translations
    name = f"video at its best strength, {_way(best.strength, best.adapt)}"
    close(f"{name}: changed attribute seen", best.followed.seen, translations.alone.seen, "the new prompt alone")
    close(f"{name}: other attributes kept", best.followed.kept, translations.alone.kept, "the new prompt alone")
    for run in measured.endless.runs:
        if run.growth is not None:
            last, peak = run.growth
            wanted = f"{run.past.name}: memory within {MEMORY:.0%} of that after the first stretch"
            flat = max(abs(last), abs(peak)) <= MEMORY
            result.append(Target(wanted, f"{last:+.2%} at the end, {peak:+.2%} at most", flat))
        if run.slowing is not None:
            wanted = f"{run.past.name}: a chunk's time grows by at most {SLOWING:.0%} after the first stretch"
            result.append(Target(wanted, f"{run.slowing:+.1%} at the end", run.slowing <= SLOWING))
    ends = [(gap(pooled(run.end), pooled(run.start)), run.past.name) for run in measured.endless.runs]
    if ends:
        below, name = min(ends)
        wanted = f"a stream without end: last seconds at most {POINTS:g} points below the first, for one past at least"
        result.append(Target(wanted, f"{name}: {points(below)}", below <= POINTS))
    return result


def only(readings: Readings, *names: str) -> Readings:
    """Return the readings of some attributes."""
    return {name: tally for name, tally in readings.items() if name in names}


def write_report(folder: Path, report: StreamReport, pictures: Mapping[str, "Image"]) -> None:
    """Write pictures, measurements and report into a folder, in this order: what is shown is there."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, picture in pictures.items():
        (folder / f"{name}.png").write_bytes(_png(picture))
    (folder / MEASURED).write_text(report.model_dump_json(indent=2) + "\n", encoding="utf-8")
    (folder / REPORT).write_text(render_report(report, folder), encoding="utf-8")


def render_report(report: StreamReport, folder: Path) -> str:
    """Compose the report as Markdown, with those pictures that the folder has."""

    def picture(name: str, alt: str) -> str:
        return f"![{alt}]({name}.png)" if (folder / f"{name}.png").is_file() else ""

    measured = report.measured
    sections = [
        _introduction(report),
        reached_section(targets(report)),
        _changes(measured.changes),
        picture("prompt", "Streams whose prompts change"),
        _extensions(measured),
        picture("extension", "Videos that are gone on with"),
        _image(measured.image),
        picture("image", "Videos that begin with an image"),
        _translations(measured.translations),
        picture("video", "Videos made anew under another prompt"),
        _variety(measured.variety),
        _endless(measured.endless),
        picture("endless", "Stills of streams without end"),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _introduction(report: StreamReport) -> str:
    measured = report.measured
    return "\n\n".join(
        [
            report.heading("What can be done to a stream, measured"),
            "Made by this command, every number and picture. "
            f"{measured.prompts} held-out prompts with one subject each, seed {measured.seed}; a clip lasts "
            f"{measured.clip_seconds:.2f} s. A classifier trained on renders of the world reads attributes off the "
            "frames; beside every count stands the same count for videos made from the prompt alone, so that what an "
            "operation costs is the difference. Fractions are followed by their counts and by Wilson's 95 % interval "
            "in percent. A seam is the mean absolute difference between the last frame before and the first after, "
            "over the median difference of neighbouring frames in the same video.",
        ]
    )


def _changes(changes: PromptChanges) -> str:
    half = f"{SOON / 2:g}–{SOON:g} s"
    late = f"{SOON:g}–{2 * SOON:g} s"
    largest = "largest step, median"
    columns = ["change", "sink", f"new seen, {half}", late, f"others kept, {half}", late]
    rows, details, steps = [], [], []
    for change in changes.changes:
        named = [_named(change), SINKS[change.keep_sink]]
        followed = (change.soon.seen, change.later.seen, change.soon.kept, change.later.kept)
        counted = [share_within(pooled(readings)) for readings in followed]
        rows.append([*named, *counted])
        tallies = (change.soon.seen.get(name) for name in changes.alone_soon.seen)
        details.append([*named, *map(share_within, tallies)])
        steps.append([*named, *_steps(change.seam), f"{change.largest.median:.2f}"])
    alone = (changes.alone_soon.seen, changes.alone_later.seen, changes.alone_soon.kept, changes.alone_later.kept)
    rows.append(["the new prompt alone", "", *(share_within(pooled(readings)) for readings in alone)])
    unchanged = ["prompt not changed", "", *_steps(changes.unchanged), f"{changes.unchanged_largest.median:.2f}"]
    details.append(["the new prompt alone", "", *map(share_within, changes.alone_soon.seen.values())])
    return "\n\n".join(
        [
            "## A prompt that changes",
            f"After {changes.before} frames one attribute becomes another; the attributes take turns. A cut changes "
            "the text alone, a recache also makes the visible past anew under it, a blend goes there over "
            f"{changes.chunks} chunks; unless it is said, the last two dissolve. Where the sink is dropped, all make "
            "the past anew. Seconds are counted from the change; videos of the new prompt alone are read at the same "
            "frames. Unasked, this model has its sink "
            f"{SINKS[changes.keeps_sink]}: the targets are for that.",
            table(columns, rows),
            f"The new attribute, seen {half} after the change, by what changed:",
            table(["change", "sink", *changes.alone_soon.seen], details),
            f"Seams, and the largest step from a frame to the next within {SOON:g} s of the change, in ordinary steps:",
            table(["change", "sink", *(f"seam, {name}" for name in _STEPS), largest], [*steps, unchanged]),
        ]
    )


def _named(change: PromptChange) -> str:
    return f"{change.mode}, no dissolve" if change.hard else change.mode


def _extensions(measured: StreamMeasurements) -> str:
    plain = measured.image.plain
    names = list(plain)
    rows, seams = [], []
    for extension in measured.extensions:
        for part, readings in (("given", extension.given), ("new", extension.kept)):
            rows.append([f"{extension.of}s, {part} part", *(share_within(readings.get(name)) for name in names)])
        for step, steps in (
            ("from the last frame given to the first new one (the seam)", extension.seam),
            ("from the last frame given to itself, encoded and decoded", extension.encoding),
            ("from that to the first new one", extension.decoded),
        ):
            seams.append([f"{extension.of}s", step, *_steps(steps)])
    rows.append(["the prompt alone", *(share_within(plain.get(name)) for name in names)])
    return "\n\n".join(
        [
            "## A video that goes on",
            f"The frames of a clip are handed over, and {SOON:g} s are added under the same prompt.",
            table(["", *names], rows),
            "Steps in ordinary steps; what encoding alone loses is part of the seam.",
            table(["of", "step", *_STEPS], seams),
        ]
    )


def _image(image: ImageToVideo) -> str:
    columns = list(image.image)
    titles = {
        "image and prompt": image.image,
        "the prompt alone": image.plain,
        "image, and a prompt without colour and place": image.image_bare,
        "that prompt alone (chance)": image.plain_bare,
    }
    rows = [[title, *(share_within(readings.get(name)) for name in columns)] for title, readings in titles.items()]
    return "\n\n".join(
        [
            "## An image that begins to move",
            "The first frame of a render is given; what is read off the clip is compared with the render's scene.",
            table(["", *columns], rows),
        ]
    )


def _translations(translations: Translations) -> str:
    names = list(translations.alone.kept)
    rows = []
    for one in translations.by_strength:
        followed = one.followed
        counted = [share_within(pooled(followed.seen)), *(share_within(followed.kept.get(name)) for name in names)]
        rows.append([f"{one.strength:g}", "on" if one.adapt else "off", *counted, f"{one.balance:.3f}"])
    alone = translations.alone
    counted = [share_within(pooled(alone.seen)), *(share_within(alone.kept.get(name)) for name in names)]
    rows.append(["the new prompt alone", "", *counted, ""])
    best = translations.best
    return "\n\n".join(
        [
            "## A video made anew",
            "A render is given with a prompt that names another colour or another subject, in turns. Balance is the "
            "harmonic mean of the changed attribute seen and all others kept.",
            table(["strength", "adapt", "changed seen", *(f"{name} kept" for name in names), "balance"], rows),
            f"Best balanced: {_way(best.strength, best.adapt)}. The default is {translations.default:g}.",
        ]
    )


def _variety(variety: tuple[Variety, ...]) -> str:
    rows = [
        [v.mode, str(v.prompts), str(v.seeds), f"{v.of_seeds:.3f}", f"{v.of_prompts:.3f}", _ratio(v)] for v in variety
    ]
    return "\n\n".join(
        [
            "## How much seeds differ",
            "Mean distance between the classifier's features of two clips, root mean square over features: clips of "
            "one prompt with different seeds, and, as the scale, clips of different prompts.",
            table(["", "prompts", "seeds", "between seeds", "between prompts", "ratio"], rows),
        ]
    )


def _endless(endless: WithoutEnd) -> str:
    lines = [
        "## Streams without end",
        f"For each way to see the past, one stream of {endless.minutes:g} minutes of the first prompt, of which one "
        f"clip of {READ_SECONDS:g} s in {READ_ONE_IN} is read, all attributes together; and streams of "
        f"{60 * endless.short_minutes:g} s of the first {endless.prompts} prompts, whose first and last "
        f"{endless.edge_seconds:g} s are read in clips of {READ_SECONDS:g} s. Clips of one stream resemble each other: "
        "the intervals are narrower than the truth.",
    ]
    names = list(endless.runs[0].start) if endless.runs else []
    rows = [
        [run.past.name, part, share_within(pooled(readings)), *(share_within(readings.get(name)) for name in names)]
        for run in endless.runs
        for part, readings in (("first", run.start), ("last", run.end))
    ]
    lines.append(table(["past", f"{endless.edge_seconds:g} s", "all", *names], rows))
    colours, times = ["saturation", "contrast", "luminance"], ["chunk (ms)", "± (ms)", "over an early one"]
    columns = ["until (min)", "as asked", *colours, "memory (MiB)", *times]
    for run in endless.runs:
        rows = [
            [
                f"{span.end / 60:g}",
                share_within(span.adherence),
                f"{span.saturation:.3f}",
                f"{span.contrast:.3f}",
                f"{span.luminance:.3f}",
                "–" if span.memory is None else f"{span.memory:.1f}",
                f"{span.chunk_ms:.1f}",
                f"{span.noise_ms:.1f}",
                "–" if span.over_early is None else f"{span.over_early:.3f}",
            ]
            for span in run.spans
        ]
        lines += [f"### {run.past.name[0].upper()}{run.past.name[1:]}", table(columns, rows)]
    lines.append(
        "Saturation, contrast (root mean square) and mean luminance are those of pixels in [0, 1]. Memory is what the "
        "whole process holds at the end of the stretch. Times of a chunk are the median and the median absolute "
        "deviation from it, which say how busy the machine was; hence the last column: after every chunk one of "
        f"the stream's first {EARLY_SECONDS:g} s is made again, and the median is that of both times' ratio."
    )
    return "\n\n".join(lines)


_STEPS = ("median", "a tenth exceeds", f"at most {SMOOTH:g}")


def _steps(steps: Steps) -> list[str]:
    return [f"{steps.median:.2f}", f"{steps.tenth:.2f}", share_within(steps.smooth)]


def _way(strength: float, adapt: bool) -> str:
    return f"{strength:g} {'with' if adapt else 'without'} adapt"


def _ratio(variety: Variety) -> str:
    return f"{variety.of_seeds / variety.of_prompts:.2f}" if variety.of_prompts else "–"


def _png(picture: "Image") -> bytes:
    """Return a picture as PNG, made smaller until it is small enough for a repository."""
    while True:
        file = io.BytesIO()
        picture.save(file, "PNG", optimize=True)
        if file.tell() < PICTURE_BYTES:
            return file.getvalue()
        picture = picture.resize((picture.width * 4 // 5, picture.height * 4 // 5))
