"""`causvid plan`: will it fit? Counted before anything loads, and on request measured beside it."""

import json
import re
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from causvid.cli.early import check_device, check_model
from causvid.cli.options import DeviceOption, Options, find_device, flat
from causvid.loading.spec import ModelSpec
from causvid.preset import load_preset, preset_names

if TYPE_CHECKING:
    from causvid.engine.plan import Choice, Plan, Sketch

Trains = Literal["teacher", "ode", "dmd"]
GB = 10**9
UNITS = {"": GB, "G": GB, "GB": GB, "MB": 10**6, "GIB": 2**30, "MIB": 2**20}
PROMPT = "a red paper airplane over a lake"
WEIGHTS = ("transformer", "text encoder", "autoencoder")
"""Parts of a plan that are weights, which loading reads from files."""


@flat
def plan(
    parts: Annotated[dict[str, Any], Options(ModelSpec)],
    gpu: Annotated[str | None, typer.Option(help="Memory there is, such as 24GB: tells whether it fits.")] = None,
    window: Annotated[int | None, typer.Option(help="Latent frames of history it sees.")] = None,
    sink: Annotated[int | None, typer.Option(help="First latent frames that are never evicted.")] = None,
    height: Annotated[int | None, typer.Option(help="Pixels.")] = None,
    width: Annotated[int | None, typer.Option(help="Pixels.")] = None,
    measure: Annotated[bool, typer.Option("--measure", help="Also load it, generate chunks and measure.")] = False,
    chunks: Annotated[int, typer.Option(min=1, help="Chunks to measure.")] = 1,
    steps: Annotated[int | None, typer.Option(min=1, help="Denoising steps a chunk, when measuring.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write what was measured as JSON.")] = None,
    device: DeviceOption = None,
    train: Annotated[Trains | None, typer.Option(help="Plan training: this stage, of a preset.")] = None,
    ranks: Annotated[int | None, typer.Option(min=1, help="With --train: processes, a GPU each.")] = None,
    sequence_parallel: Annotated[
        int | None, typer.Option(min=1, help="With --train: so many processes share each clip.")
    ] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="With --train: clips of a micro-batch.")] = None,
    frames: Annotated[int | None, typer.Option(min=1, help="With --train: latent frames of a clip.")] = None,
    lora_rank: Annotated[int | None, typer.Option(min=0, help="With --train: rank of the LoRA; 0 trains all.")] = None,
    rollout: Annotated[
        bool | None, typer.Option("--rollout/--noised", help="With --train dmd: where the student's clips come from.")
    ] = None,
    recompute: Annotated[
        bool | None, typer.Option("--recompute/--keep", help="With --train: activation checkpointing.")
    ] = None,
) -> None:
    """Count how much memory a model needs, by path or by the name of a preset, before any of it is loaded.

    With --train, of a stage of training on each GPU; what is not asked for is the preset's.

    GB are 10^9 bytes. A card sold with 24 GB has 7 % more than that, which is left to CUDA itself.
    """
    budget = None if gpu is None else _bytes(gpu)
    spec = ModelSpec.make(**parts)
    asked_to_train = {
        "ranks": ranks,
        "sequence_parallel": sequence_parallel,
        "batch": batch,
        "frames": frames,
        "lora_rank": lora_rank,
        "recompute": recompute,
        "rollout": rollout,
    }
    if train is not None:
        _plan_training(spec, train, asked_to_train, {"height": height, "width": width}, budget)
        return
    for option, value in asked_to_train.items():
        if value is not None:
            raise ValueError(f"{option}={value} is about training: add --train")
    named = spec.model if spec.model in preset_names() and not Path(spec.model or "").exists() else None
    if named is not None and (measure or spec.student is not None or spec.preset is not None):
        raise ValueError(f"model={named} is a preset: measure, student and preset need the path of a model")
    if output is not None and not measure:
        raise ValueError(f"output={output} has nothing to hold: add --measure")
    check_device(device)
    if named is None:
        check_model(parts)
    from causvid.engine.plan import Choice, sketch_files, sketch_preset
    from causvid.loading.assemble import DTYPES

    tiny = spec.tiny_autoencoder is not None
    sketch = sketch_files(spec) if named is None else sketch_preset(load_preset(named), tiny=tiny)
    own = sketch.generation
    asked = {"window": window, "sink": sink, "height": height, "width": width}
    choice = Choice(
        dtype=(sketch.dtype or DTYPES["bf16"]) if spec.dtype is None else DTYPES[spec.dtype],
        text_encoder=spec.text_encoder,
        **{name: getattr(own, name) if value is None else value for name, value in asked.items()},
    )
    if measure:
        record = _measure(sketch, choice, spec, device, chunks=chunks, steps=steps)
        if output is not None:
            output.parent.mkdir(parents=True, exist_ok=True)
            output.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        return
    needed = sketch.plan(choice)
    _show(needed, _title(spec, choice))
    _judge(needed, budget)


def _plan_training(
    spec: ModelSpec, stage: Trains, asked: dict[str, Any], size: dict[str, int | None], budget: int | None
) -> None:
    """Plan a stage of a preset, with what is asked for in place of the preset's settings."""
    from causvid.engine.plan import sketch_preset
    from causvid.train.plan import Training, plan_training

    if spec.model is None or not (spec.model in preset_names() or spec.model.endswith(".toml")):
        given = "no model" if spec.model is None else f"model={spec.model}"
        names = ", ".join(preset_names())
        raise ValueError(f"{given}: --train plans a preset, given as --model: {names} or a .toml file")
    preset = load_preset(spec.model)
    own = getattr(preset.train, stage) if preset.train is not None else None
    changes = {name: value for name, value in size.items() if value is not None}
    generation = preset.generation.model_copy(update=changes)
    phases = getattr(own, "phases", ())
    lora = getattr(own, "lora", None)
    settings: dict[str, Any] = {
        "ranks": 1,
        "sequence_parallel": 1,
        "batch": max((phase.batch for phase in phases), default=getattr(own, "batch", 1)),
        "frames": max((phase.frames for phase in phases), default=generation.clip_frames),
        "lora_rank": None if lora is None else lora.rank,
        "recompute": bool(own is not None and own.recompute),
        "rollout": getattr(own, "student_input", "data") == "rollout",
    }
    settings |= {name: value for name, value in asked.items() if value is not None}
    choice = Training(
        stage=stage,
        accumulates=own is not None and own.accumulate * settings["sequence_parallel"] > settings["ranks"],
        together=settings.pop("sequence_parallel"),
        average=own is None or own.ema > 0,
        muon=getattr(own, "optimizer", "adamw") == "muon",
        lora=settings.pop("lora_rank") or None,
        **settings,
    )
    needed = plan_training(sketch_preset(preset.model_copy(update={"generation": generation})), choice)
    trained = "all weights" if choice.lora is None else f"LoRA of rank {choice.lora}"
    clip = f"{choice.frames} latent frames of {generation.width} x {generation.height}"
    clips = f"{choice.batch} x {clip}{', rolled out' if choice.rollout else ''}"
    kept = "blocks recomputed" if choice.recompute else "activations kept"
    shared = f", {choice.together} sharing a clip" if choice.together > 1 else ""
    _show(needed, f"{spec.model}, stage {stage}, on each of {choice.ranks}{shared}: {clips}, {trained}, {kept}")
    _judge(needed, budget)


def _judge(needed: "Plan", budget: int | None) -> None:
    """Say whether a plan fits into the memory there is, if that was said."""
    if budget is not None:
        verdict = "fits" if needed.peak <= budget else "does not fit"
        print(f"{needed.peak / GB:.2f} GB at most: {verdict} into {budget / GB:g} GB")


def _bytes(text: str) -> int:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", text.strip())
    if match is None or match[2].upper() not in UNITS or float(match[1]) == 0:
        raise ValueError(f"gpu={text} is not a size such as 24GB or 23.5GiB")
    return int(float(match[1]) * UNITS[match[2].upper()])


def _title(spec: ModelSpec, choice: "Choice") -> str:
    return (
        f"{spec.model or 'the built-in model'}: {choice.width} x {choice.height}, {_precision(choice)}, "
        f"window {choice.window}, sink {choice.sink}, text encoder: {choice.text_encoder}"
    )


def _precision(choice: "Choice") -> str:
    from causvid.loading.assemble import DTYPES

    return next(name for name, dtype in DTYPES.items() if dtype == choice.dtype)


def _show(needed: "Plan", title: str) -> None:
    from rich.console import Console
    from rich.table import Table

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


def _measure(
    sketch: "Sketch", choice: "Choice", spec: ModelSpec, device: str | None, *, chunks: int, steps: int | None
) -> dict[str, Any]:
    """Load the model, generate chunks, and return the peak of memory beside the planned one."""
    from causvid.engine.memory import describe_machine, measure
    from causvid.pipeline import Pipeline

    place = find_device(device)
    needed = sketch.plan(choice, separate=place.type != "cpu", chunks=chunks)
    fixed = spec.model_copy(update={"dtype": _precision(choice)})
    size = {name: getattr(choice, name) for name in ("window", "sink", "height", "width")}

    def run(pipeline: Pipeline) -> int:
        return sum(len(frames) for frames in islice(pipeline.stream(PROMPT, steps=steps, **size), chunks))

    for _ in islice(Pipeline.from_pretrained(device=place).stream(PROMPT, steps=1), 1):
        pass  # libraries take their share of memory at their first use
    found = measure(lambda: Pipeline.from_pretrained(fixed, device=place), run, place)
    _show(needed, f"{_title(spec, choice)}, {chunks} chunks")
    planned, measured = found.before + needed.peak, found.before + found.peak
    print(
        f"planned {planned / GB:.2f} GB, of which {found.before / GB:.2f} are the libraries; "
        f"measured {measured / GB:.2f} GB: the plan is {planned / measured - 1:+.1%} off"
    )
    return {
        "machine": describe_machine(place),
        "device": place.type,
        "model": Path(spec.model).name if spec.model else "built-in",
        "transformer": sketch.config.model_dump(mode="json"),
        "choice": {**vars(choice), "dtype": _precision(choice)},
        "chunks": chunks,
        "steps": steps or len(sketch.generation.timesteps),
        "frames": found.frames,
        "bytes": {
            "libraries": found.before,
            "parts": dict(needed.parts),
            "moments": dict(needed.moments),
            "planned": planned,
            "peak while loading": found.loading,
            "loaded": found.loaded,
            "measured": measured,
        },
        "planned_over_measured": round(planned / measured, 4),
        "loading_over_weights": round(found.loading / sum(needed.parts[name] for name in WEIGHTS), 4),
        "seconds": {"loading": round(found.loading_seconds, 2), "chunks": round(found.running_seconds, 2)},
    }
