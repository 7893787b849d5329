"""`causvid report`: one page about a model, with videos, plots and every number beside the command that gives it.

    index.html         the page
    report.json        all numbers
    videos/            of every prompt and seed, in VBench's naming, by `causvid evaluate videos`

An interrupted report goes on: videos that are there are not made again.
"""

import html
import io
import json
from collections.abc import Callable, Mapping, Sequence
from itertools import islice, pairwise
from pathlib import Path
from typing import Any
from urllib.parse import quote

import torch

from causvid.engine.memory import describe_machine
from causvid.evaluate import measures
from causvid.evaluate.judge import load_judge
from causvid.evaluate.switch import Switch, read_switch, switch_latency
from causvid.evaluate.vbench import diversity, means, read_clip, score_folder
from causvid.evaluate.videos import Manifest, Progress, Prompt, make_videos
from causvid.files.writing import new_file
from causvid.media import read_video
from causvid.pipeline import Pipeline

PAGE, NUMBERS, VIDEOS = "index.html", "report.json", "videos"
TEMPLATE = Path(__file__).parent / "page.html"
FEW = 4
"""Prompts that are switched to the next, and pictures that are continued."""
MEANINGS: Mapping[str, str] = {
    "consistency": "likeness of outlines with the first frame and the one before; 1 is no change",
    "temporal_flickering": "1 less the mean step between frames, of 1; higher is calmer",
    "motion_smoothness": "1 less the error of frames interpolated along their motion, of 1; higher is smoother",
    "dynamic_degree": "share of the videos that move",
    "speed": "of the fastest blocks, in picture heights a second",
    "flicker": "how much brightness alternates, of 1; 0 is not at all",
    "sharpness": "fine detail over contrast; higher is sharper",
    "drift_colour": "change of colour between first and last second, of 1; 0 is none",
    "drift_contrast": "contrast of the last second over the first, less 1; 0 is no change",
    "drift_sharpness": "sharpness of the last second over the first, less 1; 0 is no change",
    "drift_features": "how unlike the last second's outlines are to the first's; 0 is alike",
    "border_flicker": "step into a new chunk over its neighbours; 1 is no seam",
    "diversity_over_seeds": "mean pixel distance of two seeds of a prompt, of 1",
    "first_frame_psnr": "of videos that begin with a picture against it, in dB; higher is truer",
    "switch_seconds": "until a new prompt is seen halfway, for good, by colours",
    "share_switched": "changes of prompt that were seen at all",
    "switch_seconds_by_classifier": "until the world's classifier reads the new prompt, off the frames before",
    "share_switched_by_classifier": "changes of prompt that it read at all",
}
Plot = Callable[[Any], None]
"""Draws on matplotlib's axes."""


def write_report(
    pipeline: Pipeline,
    prompts: Sequence[Prompt],
    folder: Path,
    *,
    command: str,
    chosen: str = "",
    seeds: int = 2,
    seconds: float | None = None,
    speed: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Make the videos, judge them, and write the page; return the numbers.

    Args:
        command: that made the report. chosen: the options of it that `causvid evaluate videos` has too.
        seeds: videos of each prompt.
        speed: what `causvid bench --json` wrote.

    Raises:
        ValueError: if the folder holds videos of another request, or matplotlib is missing.
    """
    _matplotlib()
    if speed is not None:
        _check_speed(speed)
    videos = folder / VIDEOS
    manifest = make_videos(pipeline, prompts, videos, seconds=seconds, seeds=seeds, vbench=True, progress=progress)
    making = f"causvid evaluate videos --vbench -o {VIDEOS} {chosen}".rstrip()
    rows = score_folder(videos)
    changes = list(islice(pairwise(prompts), FEW))
    switches = [switch_latency(pipeline, a.text, b.text) for a, b in changes]
    read = _read(pipeline, changes, switches)
    numbers: dict[str, Any] = {
        "command": command,
        "machine": describe_machine(pipeline.bundle.transformer.patch_in.weight.device),
        "model": manifest.model,
        "videos": {"count": len(manifest.videos), "seconds": manifest.seconds, "steps": manifest.steps},
        "judged": {f"{making}; causvid evaluate vbench {VIDEOS}": means(rows)},
        "streaming": {command: _streaming(pipeline, manifest, videos, switches, read)},
    }
    if speed is not None:
        numbers["speed"] = speed
    plots = {"New prompt seen, by seconds since the change": _switch_plot(switches, pipeline.fps)}
    if read:
        plots["New prompt read by the classifier, by seconds since the change"] = _switch_plot(read, pipeline.fps)
    plots |= {"Change of the video from its beginning": _drift_plot(manifest, videos)}
    if speed is not None:
        plots["Parts of a chunk, ms"] = _speed_plot(speed)
    _write(folder, numbers, manifest, [(title, _svg(draw)) for title, draw in plots.items()])
    return numbers


def _streaming(
    pipeline: Pipeline, manifest: Manifest, folder: Path, switches: Sequence[Switch], read: Sequence[Switch]
) -> dict[str, float | None]:
    """Measure what needs the model, or several videos of a prompt: switches, first frames, and how seeds differ."""
    found: dict[str, float | None] = {"diversity_over_seeds": diversity(folder)}
    own, fidelity = pipeline.generation, []
    for video in manifest.videos[:FEW]:
        *_, image = read_video(folder / video.file, height=own.height, width=own.width, fps=own.fps)
        first = next(pipeline.stream(video.prompt.text, image=image))
        fidelity.append(measures.first_frame_fidelity(first, torch.from_numpy(image)))
    found["first_frame_psnr"] = _mean(fidelity)
    for part, suffix in ((switches, ""), (read, "_by_classifier")):
        seen = [one.seconds for one in part if one.seconds is not None]
        if part or not suffix:
            found[f"switch_seconds{suffix}"] = _mean(seen)
            found[f"share_switched{suffix}"] = len(seen) / len(part) if part else None
    return found


def _read(pipeline: Pipeline, changes: Sequence[tuple[Prompt, Prompt]], switches: Sequence[Switch]) -> list[Switch]:
    """Read the switches by the model's classifier; none where it has none, or the prompts have no labels."""
    if pipeline.bundle.classifier is None or not all(a.labels and b.labels for a, b in changes):
        return []
    classifier = load_judge(pipeline.bundle)[0]
    read = [
        read_switch(classifier, one, a.labels, b.labels, fps=pipeline.fps)
        for (a, b), one in zip(changes, switches, strict=True)
    ]
    return [one for one in read if one is not None]


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _matplotlib() -> Any:
    try:
        import matplotlib
    except ImportError:
        raise ValueError("a report needs matplotlib: pip install 'causvid[report]'") from None
    return matplotlib


def _svg(draw: Plot) -> str:
    """Draw a plot as SVG that stands in a page."""
    _matplotlib().use("svg")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3), layout="constrained")
    draw(figure.subplots())
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    text = file.getvalue()
    return text[text.index("<svg") :]


def _switch_plot(switches: Sequence[Switch], fps: float) -> Plot:
    def draw(axes: Any) -> None:
        for one in switches:
            axes.plot([number / fps for number in range(len(one.share))], one.share)
        axes.axhline(0.5, color="grey", linewidth=0.8)
        axes.set(xlabel="seconds", ylabel="share of the new prompt", ylim=(-0.25, 1.25))

    return draw


def _drift_plot(manifest: Manifest, folder: Path) -> Plot:
    curves = []
    for video in manifest.videos:
        frames, fps = read_clip(folder / video.file)
        points = measures.colour_layout(frames.movedim(-1, 1) / 255.0)
        change = 1 - torch.nn.functional.cosine_similarity(points, points[:1])
        curves.append(([number / fps for number in range(len(change))], change))

    def draw(axes: Any) -> None:
        for times, change in curves:
            axes.plot(times, change, color="tab:blue", alpha=0.4, linewidth=0.8)
        axes.set(xlabel="seconds", ylabel="1 − likeness of colours", ylim=(0, None))

    return draw


def _check_speed(speed: object) -> None:
    rows = speed.get("stages") if isinstance(speed, Mapping) else None
    if not isinstance(rows, list) or not all(isinstance(row, dict) and {"stage", "ms"} <= set(row) for row in rows):
        raise ValueError("bench: expected what `causvid bench --json` wrote")


def _speed_plot(speed: Mapping[str, Any]) -> Plot:
    rows = speed["stages"]

    def draw(axes: Any) -> None:
        axes.barh([str(row["stage"]) for row in rows][::-1], [float(row["ms"]) for row in rows][::-1])
        axes.set(xlabel="ms")

    return draw


def _write(folder: Path, numbers: Mapping[str, Any], manifest: Manifest, plots: Sequence[tuple[str, str]]) -> None:
    tables = [
        f"<h2>{title.capitalize()}</h2>" + "".join(map(_table, *zip(*numbers[title].items(), strict=True)))
        for title in ("judged", "streaming")
    ]
    if "speed" in numbers:
        speed = numbers["speed"]
        plain = {name: value for name, value in speed.items() if isinstance(value, int | float | str)}
        stages = {str(row["stage"]): row["ms"] for row in speed["stages"]}
        tables.append("<h2>Speed</h2>" + _table(str(speed.get("command", "causvid bench")), {**plain, **stages}))
    films = "".join(
        f'<figure><video src="{VIDEOS}/{html.escape(quote(video.file))}" controls muted loop playsinline preload="auto"'
        f"></video><figcaption>{html.escape(video.prompt.text)} <small>seed {video.seed}</small></figcaption></figure>"
        for video in manifest.videos
    )
    drawn = "".join(f"<figure><figcaption>{html.escape(title)}</figcaption>{svg}</figure>" for title, svg in plots)
    about = f"{numbers['machine']} · model {numbers['model'][:12]} · {numbers['command']}"
    parts = {"about": html.escape(about), "tables": "".join(tables), "plots": drawn, "videos": films}
    text = TEMPLATE.read_text(encoding="utf-8")
    for name, part in parts.items():
        text = text.replace(f"{{{{{name}}}}}", part)
    for file, content in ((NUMBERS, json.dumps(numbers, indent=2) + "\n"), (PAGE, text)):
        with new_file(folder / file) as partial:
            partial.write_text(content, encoding="utf-8")


def _table(command: str, values: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<tr><td>{html.escape(name.replace('_', ' '))}</td><td>{html.escape(_said(value))}</td>"
        f"<td>{html.escape(MEANINGS.get(name, ''))}</td></tr>"
        for name, value in values.items()
    )
    return f"<p><code>{html.escape(command)}</code></p><table>{rows}</table>"


def _said(value: object) -> str:
    return "–" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
