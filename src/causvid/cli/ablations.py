"""`causvid evaluate ablations`: which parts of the recipe does it need?"""

import platform
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from causvid.cli.evaluate import command_line, readers, renders
from causvid.cli.options import DeviceOption, find_device, load_pipeline, stages

if TYPE_CHECKING:
    from causvid.pipeline import Pipeline

_STUDENT = ("pairs", "ode", "dmd")
"""Stages that a teacher has no part in."""


def ablations(
    context: typer.Context,
    run: Annotated[Path, typer.Argument(help="Folder of a run, with its ablations/.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the report.")],
    prompts: Annotated[int, typer.Option(min=2, help="Held-out prompts; every row makes a clip of each.")] = 256,
    long_prompts: Annotated[int, typer.Option(min=0, help="Prompts of long videos; 0 makes none.")] = 20,
    long_seconds: Annotated[float, typer.Option(min=10, help="Length of a long video.")] = 30.0,
    seed: Annotated[int, typer.Option(min=0, help="Chooses prompts and noise.")] = 0,
    device: DeviceOption = None,
) -> None:
    """Compare the recipe with itself less one idea: adherence, Fréchet distance, drift, speed; write a report."""
    import torch

    from causvid.evaluate.ablations import REPORT, TITLES, AblationReport, Exam, findings, measure_row, write_report
    from causvid.evaluate.adherence import describe_machine
    from causvid.evaluate.frechet import clip_features
    from causvid.train.ablations import FOLDER
    from causvid.train.stages import BUNDLE
    from causvid.worlds.storybook import caption, sample_scene

    if not (run / BUNDLE).is_dir():
        raise ValueError(f"run={run} has no {BUNDLE}: finish it with `causvid train all`, which ends with one")
    full = load_pipeline(run / BUNDLE, device)
    output.mkdir(parents=True, exist_ok=True)  # before minutes of measuring, not after
    own, provenance = full.generation, full.bundle.provenance
    classifier, world = readers(full)
    bundles = {name: run / FOLDER / name / BUNDLE for name in TITLES} | {"full": run / BUNDLE, "teacher": run / BUNDLE}
    command = f"--preset {provenance.get('preset')} --out {run}"
    missing = {name: f"causvid train ablations {command}" for name, folder in bundles.items() if not folder.is_dir()}
    missing.pop("short", None)  # made only where the variants are short
    if full.bundle.teacher is None:
        missing["teacher"] = f"causvid train all {command}"

    scenes = [sample_scene(world, seed + number, split="held-out") for number in range(2 * prompts)]
    asked, others = scenes[:prompts], scenes[prompts:]
    frames = round(full.clip_seconds * own.fps)
    rows = []
    with stages() as stage:
        compared = renders(others, own, frames, stage("renders to compare with"))
        exam = Exam(
            classifier=classifier,
            prompts=[caption(scene, scene.seed, language=world.language) for scene in asked],
            labels=classifier.labels([scene.readable() for scene in asked]),
            reference=torch.cat([clip_features(classifier, pixels) for pixels in compared]),
            seed=seed,
        )
        ceiling, floor = exam.grade(renders(asked, own, frames, stage("renders")))
        for name, folder in bundles.items():
            if name in missing or not folder.is_dir():
                continue
            pipeline = full if folder == run / BUNDLE else load_pipeline(folder, device)
            rows.append(
                measure_row(
                    exam,
                    pipeline,
                    name=name,
                    training=_training(pipeline, of_teacher=name == "teacher"),
                    mode="teacher" if name == "teacher" else "student",
                    steps=own.teacher_steps if name == "teacher" else len(own.timesteps),
                    seconds=pipeline.clip_seconds,
                    long_prompts=long_prompts,
                    long_seconds=long_seconds,
                    progress=stage(name),
                    long_progress=stage(f"{name}, long videos"),
                )
            )
    report = AblationReport(
        model=f"{provenance.get('preset')}, finished {provenance.get('finished')}",
        versions={"causvid": version("causvid"), "python": platform.python_version()},
        machine=describe_machine(find_device(device)),
        command=command_line(context),
        prompts=prompts,
        seed=seed,
        ceiling=ceiling,
        floor=floor,
        rows=tuple(rows),
        missing=missing,
    )
    write_report(output, report)
    for one in findings(report):
        print(f"{one.verdict}: {one.claim.text}: {one.measure} {one.recipe}, compared with {one.other}")
    for name, made_by in missing.items():
        print(f"not measured: {TITLES[name]}; `{made_by}` makes it")
    print(f"wrote {output / REPORT}")


def _training(pipeline: "Pipeline", *, of_teacher: bool) -> dict[str, dict[str, float]]:
    """Return what each stage behind a bundle's student, or its teacher, took."""
    stages: dict[str, dict[str, float]] = pipeline.bundle.provenance.get("stages") or {}
    return {name: facts for name, facts in stages.items() if not (of_teacher and name.split(",")[0] in _STUDENT)}
