"""`causvid evaluate`: does the video show what the prompt says?"""

import shlex
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from causvid.cli.options import DeviceOption, ModelOption, find_device, load_pipeline, stages
from causvid.media import contact_sheet

if TYPE_CHECKING:
    from torch import Tensor

    from causvid.config import GenerationConfig
    from causvid.evaluate.adherence import Progress
    from causvid.evaluate.card import EvaluationReport
    from causvid.evaluate.classifier import AttributeClassifier
    from causvid.evaluate.markdown import Target
    from causvid.pipeline import Pipeline
    from causvid.worlds.storybook import Scene, World

BATCH = 8
SHOWN = 10
REMARKS = ("card", "note")
"""Options that change no number."""


def adherence(
    context: typer.Context,
    model: ModelOption = None,
    prompts: Annotated[int, typer.Option(min=1, help="Held-out prompts.")] = 100,
    long_prompts: Annotated[int, typer.Option(min=0, help="Prompts of long videos; 0 makes none.")] = 100,
    long_seconds: Annotated[float, typer.Option(min=10, help="Length of a long video.")] = 30.0,
    teacher: Annotated[bool, typer.Option(help="Measure the teacher too, where the model has one.")] = True,
    card: Annotated[bool, typer.Option("--card", help="Write the model card into the bundle.")] = False,
    note: Annotated[list[str] | None, typer.Option(help="A remark for the card; may be repeated.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Chooses prompts and noise.")] = 0,
    device: DeviceOption = None,
) -> None:
    """Score renders, teacher and student on prompts never trained on, and time them."""
    from causvid.evaluate.adherence import describe_machine, measure, measure_drift, score
    from causvid.evaluate.card import CARD, EvaluationReport, write_card
    from causvid.worlds.storybook import caption, sample_scene

    pipeline = load_pipeline(model, device)
    bundle, own = pipeline.bundle, pipeline.generation
    classifier, world = readers(pipeline)
    scenes = [sample_scene(world, seed + number, split="held-out") for number in range(prompts)]
    captions = [caption(scene, scene.seed, language=world.language) for scene in scenes]
    labels = classifier.labels([scene.readable() for scene in scenes])
    seconds = pipeline.clip_seconds
    with stages() as stage:
        ceiling = score(classifier, renders(scenes, own, round(seconds * own.fps), stage("renders")), labels)
        taught = None
        if teacher and bundle.teacher is not None:
            taught = measure(
                pipeline,
                classifier,
                captions,
                labels,
                mode="teacher",
                steps=own.teacher_steps,
                seconds=seconds,
                seed=seed,
                batch=BATCH,
                progress=stage("teacher"),
            )
        student = measure(
            pipeline,
            classifier,
            captions,
            labels,
            mode="student",
            steps=len(own.timesteps),
            seconds=seconds,
            seed=seed,
            batch=BATCH,
            progress=stage("student"),
        )
        drift = None
        if long_prompts:
            drift = measure_drift(
                pipeline,
                classifier,
                captions[:long_prompts],
                {attribute: values[:long_prompts] for attribute, values in labels.items()},
                seconds=long_seconds,
                seed=seed,
                progress=stage("long videos"),
            )
    report = EvaluationReport(
        prompts=prompts,
        seed=seed,
        machine=describe_machine(find_device(device)),
        native_fps=own.fps,
        ceiling=ceiling,
        teacher=taught,
        student=student,
        drift=drift,
        commands=(command_line(context),),
        notes=tuple(note or ()),
    )
    _show(report)
    if card:
        assert bundle.folder is not None, "it was loaded from one"
        shown = captions[:SHOWN]
        videos = pipeline.generate_batch(shown, seeds=range(seed, seed + len(shown)), seconds=seconds)
        write_card(bundle.folder, report, contact_sheet(list(videos.numpy()), shown, columns=2, scale=2))
        print(f"wrote {bundle.folder / CARD}")


def readers(pipeline: "Pipeline") -> "tuple[AttributeClassifier, World]":
    """Return the classifier to measure a model with, and the world it was trained on.

    Raises:
        ValueError: if its bundle has none, or does not say.
    """
    from causvid.evaluate.classifier import AttributeClassifier
    from causvid.worlds.storybook import World

    bundle = pipeline.bundle
    if bundle.classifier is None:
        raise ValueError("the bundle has no classifier/ to measure with; `causvid train classifier` makes one")
    name = bundle.provenance.get("world")
    if not isinstance(name, str):
        raise ValueError("the bundle does not say which world it was trained on (provenance.world in causvid.json)")
    # On the CPU, where videos and renders are.
    return AttributeClassifier.load(bundle.classifier), World.preset(name)


def command_line(context: typer.Context) -> str:
    """Write the command down again, with the options that were not left at their defaults."""
    words = ["causvid", *context.command_path.split()[-2:]]
    for option in context.command.params:
        value = context.params.get(option.name or "")
        if option.name in REMARKS or value == option.default:
            continue
        if isinstance(option, typer.core.TyperArgument):
            words.append(str(value))
        elif isinstance(value, bool):
            words.append(option.opts[0] if value else option.secondary_opts[0])
        else:
            words += [option.opts[0], "path/of/this/folder" if option.name == "model" else str(value)]
    return shlex.join(words)


def renders(scenes: "list[Scene]", own: "GenerationConfig", frames: int, progress: "Progress") -> "Iterator[Tensor]":
    """Yield renders of scenes in batches, float [B, T, 3, H, W] in [0, 1]."""
    from causvid.worlds.storybook import render

    for start in range(0, len(scenes), BATCH):
        part = scenes[start : start + BATCH]
        yield render(part, frames=frames, height=own.height, width=own.width, fps=own.fps)
        progress(start + len(part), len(scenes))


def _show(report: "EvaluationReport") -> None:
    from causvid.evaluate.card import targets

    console = Console()
    columns = {"renders": report.ceiling}
    if report.teacher is not None:
        columns["teacher"] = report.teacher.adherence
    columns["student"] = report.student.adherence
    table = Table("attribute", *columns)
    for name in report.ceiling.attributes:
        table.add_row(name, *(f"{column.accuracy[name]:.1%}" for column in columns.values()))
    console.print(table)
    for made in filter(None, (report.teacher, report.student)):
        speed = made.speed
        console.print(f"{made.mode}: {made.steps} steps, {speed.clip_seconds:.2f} s a clip, {speed.fps:.1f} FPS")
    show_targets(targets(report))


def show_targets(targets: "Sequence[Target]") -> None:
    """Say of every target whether it is reached."""
    console = Console()
    for target in targets:
        console.print(f"{'reached' if target.reached else 'MISSED '}  {target.wanted}: {target.measured}")
