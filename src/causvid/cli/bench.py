"""`causvid bench`: how fast a model is on this machine, part by part."""

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table

from causvid.cli.early import check_device
from causvid.cli.options import DeviceOption, Options, find_device, flat, load_pipeline
from causvid.loading.spec import ModelSpec
from causvid.preset import preset_names

if TYPE_CHECKING:
    import torch

    from causvid.pipeline import Pipeline

Sweep = Literal["window", "chunk", "steps", "sessions"]


@flat
def bench(
    parts: Annotated[dict[str, Any], Options(ModelSpec)],
    seconds: Annotated[float, typer.Option(min=0.1, max=600, help="Of each measurement.")] = 5.0,
    cold: Annotated[bool, typer.Option("--cold", help="Also time the first frame of a new process.")] = False,
    against: Annotated[
        Literal["diffusers"] | None,
        typer.Option(help="Also recompute the history in this library, with the same weights."),
    ] = None,
    chunks: Annotated[int, typer.Option(min=0, help="Also make so many, and then compare with a new stream.")] = 0,
    window: Annotated[int | None, typer.Option(min=1, help="Latent frames of history it sees.")] = None,
    sweep: Annotated[Sweep | None, typer.Option(help="Also time a chunk over several values of this.")] = None,
    values: Annotated[list[int] | None, typer.Option(min=1, help="The values, one each time it is given.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write what was measured.")] = None,
    device: DeviceOption = None,
) -> None:
    """Time every part of a chunk, on a model, or on the sizes of a preset (--model PRESET) with untrained weights.

    Every figure is the median of runs that take turns. The teacher is timed beside the student with --teacher. On a GPU
    `causvid bench --device cuda --cold --against diffusers --chunks 600 --teacher` is the whole table.
    """
    spec = ModelSpec.make(**parts)
    if (sweep is None) != (values is None):
        raise ValueError("--sweep and --values belong together: what is changed, and to what")
    check_device(device)
    untrained = spec.model is not None and _is_preset(spec.model)
    if untrained and (cold or spec.teacher):
        raise ValueError(f"model={spec.model} is a preset, without weights: --cold and --teacher need a model")
    pipeline = _load(spec, device, untrained=untrained)
    from causvid.bench import measure
    from causvid.bench.subject import Subject, resized

    if window is not None:
        pipeline = resized(pipeline, window=window)
    subject = Subject(pipeline)
    place: torch.device = subject.latents.device
    record = measure.about(place, shlex.join(["causvid", *sys.argv[1:]]))
    record |= {"model": spec.model or "nano", "accelerate": spec.accelerate, "peak memory, MiB": measure.peak()}
    if not untrained:
        record["first frame"] = measure.first_frame(
            pipeline, model=spec.model, accelerate=spec.accelerate, cold=cold, seconds=seconds / 4
        )
    record |= measure.stages(subject, seconds=seconds)
    if spec.teacher:
        record["teacher"] = measure.teacher(pipeline, subject)
    if against is not None:
        record["against"] = measure.against_diffusers(subject, seconds=seconds)
    if sweep is not None and values is not None:
        record["sweep"] = measure.sweep(pipeline, sweep, values, seconds=seconds)
    if chunks:
        record["long stream"] = measure.long_stream(subject, chunks=chunks, seconds=seconds)
    if place.type != "cuda":
        record["gpu"] = "not measured: none was at hand"
    _show(record)
    if json_file is not None:
        json_file.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _is_preset(model: str) -> bool:
    return (model in preset_names() and not Path(model).exists()) or model.endswith(".toml")


def _load(spec: ModelSpec, device: str | None, *, untrained: bool) -> "Pipeline":
    if not untrained:
        return load_pipeline(spec, device)
    from causvid.bench.subject import untrained as make

    assert spec.model is not None
    return make(spec.model, how=spec.accelerate, device=find_device(device))


def _show(record: dict[str, Any]) -> None:
    """Print a record: tables for lists, a line for everything else."""
    console = Console(width=100)
    for name, value in record.items():
        if isinstance(value, list):
            table = Table(title=name, title_justify="left", box=None)
            columns = list(dict.fromkeys(key for row in value for key in row))
            for column in columns:
                table.add_column(column, justify="left" if column == "stage" else "right")
            for row in value:
                table.add_row(*(str(row.get(column, "")) for column in columns))
            console.print(table)
        elif isinstance(value, dict):
            console.print(f"{name}: " + " · ".join(f"{key} {item}" for key, item in value.items()), highlight=False)
        else:
            console.print(f"{name}: {value}", highlight=False)
