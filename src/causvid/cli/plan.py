"""`causvid plan`: will it fit? Counted before anything loads, and on request measured beside it."""

import json
import re
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from causvid.cli.options import (
    DeviceOption,
    ModelOption,
    Parts,
    Precision,
    PresetOption,
    StudentOption,
    TextEncoderOption,
    TinyOption,
    find_device,
    find_dtype,
    load_pipeline,
    name_dtype,
)
from causvid.preset import load_preset, preset_names

if TYPE_CHECKING:
    import torch

    from causvid.engine.plan import Choice, Option, Plan, Sketch
    from causvid.pipeline import Pipeline

GB = 10**9
UNITS = {"": GB, "G": GB, "GB": GB, "MB": 10**6, "GIB": 2**30, "MIB": 2**20}
SHORTER_WINDOWS = (12, 9, 6, 3)
PROMPT = "a red paper airplane over a lake"
WEIGHTS = ("transformer", "text encoder", "autoencoder")
"""Parts of a plan that are weights, which loading reads from files."""


def plan(
    model: ModelOption = None,
    gpu: Annotated[str | None, typer.Option(help="How much memory there is, such as 24GB: shows what fits.")] = None,
    student: StudentOption = None,
    tiny_autoencoder: TinyOption = None,
    preset: PresetOption = None,
    dtype: Annotated[Precision | None, typer.Option(help="Of the weights. Default: as in the files, or bf16.")] = None,
    text_encoder: TextEncoderOption = "keep",
    window: Annotated[int | None, typer.Option(help="Latent frames of the past it sees.")] = None,
    sink: Annotated[int | None, typer.Option(help="First latent frames it never forgets.")] = None,
    height: Annotated[int | None, typer.Option(help="Pixels.")] = None,
    width: Annotated[int | None, typer.Option(help="Pixels.")] = None,
    measure: Annotated[bool, typer.Option("--measure", help="Also load it, make chunks and measure.")] = False,
    chunks: Annotated[int, typer.Option(min=1, help="Chunks to measure.")] = 1,
    steps: Annotated[int | None, typer.Option(min=1, help="Denoising steps a chunk, when measuring.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write what was measured as JSON.")] = None,
    device: DeviceOption = None,
) -> None:
    """Say how much memory a model needs, by path or by the name of a preset, before any of it is loaded.

    GB are 10^9 bytes. A card sold with 24 GB has 7 % more than that, which is left to CUDA itself.
    """
    budget = None if gpu is None else _bytes(gpu)
    named = model is not None and model in preset_names() and not Path(model).exists()
    if named and (measure or student is not None or preset is not None):
        raise ValueError(f"model={model} is a preset: measure, student and preset need the path of a model")
    if output is not None and not measure:
        raise ValueError(f"output={output} has nothing to hold: add --measure")
    from causvid.engine.plan import Choice, list_options, sketch_files, sketch_preset
    from causvid.models.tiny_autoencoder import TinyAutoencoder

    def sketch(tiny: bool) -> "Sketch":
        if named and model is not None:
            return sketch_preset(load_preset(model), tiny=tiny)
        return sketch_files(model, student=student, tiny=tiny, preset=preset)

    drawn = sketch(tiny_autoencoder is not None)
    own = drawn.generation
    choice = Choice(
        dtype=drawn.dtype or find_dtype("bf16") if dtype is None else find_dtype(dtype),
        window=own.window if window is None else window,
        sink=own.sink if sink is None else sink,
        height=own.height if height is None else height,
        width=own.width if width is None else width,
        text_encoder=text_encoder,
    )
    title = f"{model or 'the built-in model'}: {_describe(choice)}"
    if measure:
        parts = Parts(
            model=model,
            student=student,
            tiny_autoencoder=tiny_autoencoder,
            preset=preset,
            dtype=name_dtype(choice.dtype),
            text_encoder=text_encoder,
            device=device,
        )
        record = _measure(drawn, choice, parts, find_device(device), chunks=chunks, steps=steps)
        if output is not None:
            output.parent.mkdir(parents=True, exist_ok=True)
            output.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        return
    _show(drawn.plan(choice), title)
    if budget is not None:
        windows = [choice.window, *(short for short in SHORTER_WINDOWS if window is None and short < choice.window)]
        dtypes = [choice.dtype] if dtype is not None else [find_dtype("bf16"), find_dtype("fp32")]
        other = None if isinstance(drawn.autoencoder, TinyAutoencoder) else sketch(True)
        options = list_options(drawn, other, choice, dtypes=dtypes, windows=windows)
        _show_options(options, windows, budget)
        given = {"--model": None if named else model, "--student": student, "--preset": preset}
        print(_suggest(options, choice, budget, gpu or "", given))


def _bytes(text: str) -> int:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", text.strip())
    if match is None or match[2].upper() not in UNITS or float(match[1]) == 0:
        raise ValueError(f"gpu={text} is not a size such as 24GB or 23.5GiB")
    return int(float(match[1]) * UNITS[match[2].upper()])


def _describe(choice: "Choice") -> str:
    return (
        f"{choice.width} x {choice.height}, {name_dtype(choice.dtype)}, window {choice.window}, sink {choice.sink}, "
        f"text encoder: {choice.text_encoder}"
    )


def _show(needed: "Plan", title: str) -> None:
    print(title)
    table = Table("memory", "GB")
    table.columns[1].justify = "right"
    for name, size in needed.parts.items():
        table.add_row(name, f"{size / GB:.2f}")
    table.add_section()
    for name, size in needed.moments.items():
        table.add_row(f"while {name}", f"+{size / GB:.2f}")
    table.add_section()
    worst = max(needed.moments, key=lambda moment: needed.moments[moment])
    table.add_row(f"at most, while {worst}", f"{needed.peak / GB:.2f}")
    Console().print(table)


def _show_options(options: "Sequence[Option]", windows: Sequence[int], budget: int) -> None:
    columns = ("precision", "text encoder", "autoencoder", *map(str, windows))
    print(f"GB at most, by window; * is within {budget / GB:g}")
    table = Table(*columns)
    rows: dict[tuple[str, str, str], list[str]] = {}
    for option in options:
        choice = option.choice
        row = (name_dtype(choice.dtype), choice.text_encoder, "tiny" if option.tiny else "its own")
        rows.setdefault(row, []).append(f"{option.peak / GB:.1f}{'*' if option.peak <= budget else ' '}")
    for names, cells in rows.items():
        table.add_row(*names, *cells)
    for column in table.columns[3:]:
        column.justify = "right"
    Console().print(table)


def _suggest(options: "Sequence[Option]", own: "Choice", budget: int, gpu: str, given: dict[str, str | None]) -> str:
    """Write the command of the first option that fits."""
    best = next((option for option in options if option.peak <= budget), None)
    if best is None:
        least = min(options, key=lambda option: option.peak)
        tiny = ", tiny autoencoder" if least.tiny else ""
        return f"Nothing fits into {gpu}: the least is {least.peak / GB:.1f} GB, with {_describe(least.choice)}{tiny}."
    words = ["causvid generate PROMPT -o video.mp4"]
    words += [f"{option} {value}" for option, value in given.items() if value is not None]
    words.append(f"--dtype {name_dtype(best.choice.dtype)}")
    if best.choice.text_encoder != "keep":
        words.append(f"--text-encoder {best.choice.text_encoder}")
    if best.tiny:
        words.append("--tiny-autoencoder taew2_1.pth")
    if best.choice.window != own.window or own.window:
        words.append(f"--window {best.choice.window} --sink {best.choice.sink}")
    return f"Fits, with {best.peak / GB:.1f} GB at most: {' '.join(words)}"


def _measure(
    sketch: "Sketch",
    choice: "Choice",
    parts: Parts,
    device: "torch.device",
    *,
    chunks: int,
    steps: int | None,
) -> dict[str, Any]:
    """Load the model, make chunks, and set the peak of memory beside the planned one."""
    from causvid.engine.machine import describe_machine
    from causvid.engine.footprint import peak_taken_bytes, restart_peak, taken_bytes

    needed = sketch.plan(choice, separate=device.type != "cpu", chunks=chunks)
    _make(load_pipeline(None, str(device)), None, chunks=1, steps=1)  # libraries take their share at their first use
    libraries = taken_bytes(device)
    restart_peak(device)
    began = time.perf_counter()
    pipeline = parts.load()
    loaded, taken = time.perf_counter() - began, taken_bytes(device) - libraries
    loading = peak_taken_bytes(device) - libraries
    frames = _make(pipeline, choice, chunks=chunks, steps=steps)
    seconds = time.perf_counter() - began - loaded
    planned, measured = libraries + needed.peak, peak_taken_bytes(device)
    _show(needed, f"{parts.model or 'the built-in model'}: {_describe(choice)}, {chunks} chunks")
    print(
        f"planned {planned / GB:.2f} GB, of which {libraries / GB:.2f} are the libraries; "
        f"measured {measured / GB:.2f} GB: the plan is {planned / measured - 1:+.1%} off"
    )
    return {
        "machine": describe_machine(device),
        "device": device.type,
        "model": Path(parts.model).name if parts.model else "built-in",
        "transformer": sketch.config.model_dump(mode="json"),
        "choice": {**vars(choice), "dtype": name_dtype(choice.dtype)},
        "chunks": chunks,
        "steps": steps or len(sketch.generation.timesteps),
        "frames": frames,
        "bytes": {
            "libraries": libraries,
            "parts": dict(needed.parts),
            "moments": dict(needed.moments),
            "planned": planned,
            "peak while loading": loading,
            "loaded": taken,
            "measured": measured,
        },
        "planned_over_measured": round(planned / measured, 4),
        "loading_over_weights": round(loading / sum(needed.parts[name] for name in WEIGHTS), 4),
        "seconds": {"loading": round(loaded, 2), "chunks": round(seconds, 2)},
    }


def _make(pipeline: "Pipeline", choice: "Choice | None", *, chunks: int, steps: int | None) -> int:
    """Make chunks of a video and return how many frames they have."""
    size = {} if choice is None else {name: getattr(choice, name) for name in ("window", "sink", "height", "width")}
    stream = pipeline.stream(PROMPT, steps=steps, **size)
    return sum(len(frames) for frames in islice(stream, chunks))
