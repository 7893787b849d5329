"""`causvid evaluate streams`: does what is done to a stream work, and does it last?"""

import itertools
import platform
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy
import typer

from causvid.cli.evaluate import command_line, readers, show_targets
from causvid.cli.options import DeviceOption, ModelOption, find_device, load_pipeline, stages
from causvid.media import contact_sheet, to_bytes

if TYPE_CHECKING:
    from torch import Tensor

    from causvid.config import GenerationConfig
    from causvid.evaluate.adherence import Progress
    from causvid.evaluate.bench import Bench, Case
    from causvid.evaluate.report import StreamMeasurements
    from causvid.pipeline import Pipeline
    from causvid.worlds.storybook import Scene, World

_CHANGED = {"colour": "colours", "subject": "subjects", "place": "places", "motion": "motions"}
_DRAW = 3
"""Tells the draws of changed attributes from those of scenes and captions."""
_STILLS = {"endless": 7}


def streams(
    context: typer.Context,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the report and its pictures.")],
    model: ModelOption = None,
    prompts: Annotated[int, typer.Option(min=1, help="Held-out prompts.")] = 40,
    minutes: Annotated[float, typer.Option(min=0.1, help="Length of the streams without end.")] = 10.0,
    seed: Annotated[int, typer.Option(min=0, help="Chooses prompts and noise.")] = 0,
    device: DeviceOption = None,
) -> None:
    """Measure changes of prompt, extension, image- and video-to-video, and streams without end; write a report."""
    import torch

    from causvid.evaluate.adherence import describe_machine
    from causvid.evaluate.bench import Bench
    from causvid.evaluate.report import REPORT, StreamReport, targets, write_report

    output.mkdir(parents=True, exist_ok=True)  # before minutes of measuring, not after
    pipeline = load_pipeline(model, device)
    classifier, world = readers(pipeline)
    shown: dict[str, list[tuple[str, Tensor]]] = {}

    def show(picture: str, caption: str, video: "Tensor") -> None:
        shown.setdefault(picture, []).append((caption, video))

    cases = _cases(world, pipeline.generation, count=prompts, seed=seed)
    with stages() as stage, torch.inference_mode():
        measured = _measure(pipeline, Bench(pipeline, classifier, cases, seed, show), minutes=minutes, stage=stage)
    report = StreamReport(
        model=_describe(pipeline),
        versions={"causvid": version("causvid"), "python": platform.python_version()},
        machine=describe_machine(find_device(device)),
        command=command_line(context),
        measured=measured,
    )
    pictures = {
        name: contact_sheet([video for _, video in rows], [text for text, _ in rows], stills=_STILLS.get(name, 5))
        for name, rows in shown.items()
    }
    write_report(output, report, pictures)
    show_targets(targets(report))
    print(f"wrote {output / REPORT}")


def _measure(
    pipeline: "Pipeline", bench: "Bench", *, minutes: float, stage: "Callable[[str], Progress]"
) -> "StreamMeasurements":
    """Measure everything, each at a length and a number of prompts that let the whole be done in minutes."""
    import torch

    from causvid.evaluate.adherence import Mode
    from causvid.evaluate.endless import Past, measure_without_end
    from causvid.evaluate.report import StreamMeasurements
    from causvid.evaluate.streams import (
        measure_changes,
        measure_extension,
        measure_image,
        measure_translation,
        measure_variety,
    )
    from causvid.generate.source import STRENGTH, to_pixels
    from causvid.models.autoencoder import TIME_FACTOR

    own, autoencoder, seconds = pipeline.generation, pipeline.bundle.autoencoder, pipeline.clip_seconds
    device = pipeline.bundle.transformer.patch_in.weight.device
    few = replace(bench, cases=bench.cases[: max(2, len(bench.cases) // 5)])
    pasts = (
        Past(name="window with sink", policy="window", sink=own.sink or 1),
        Past(name="window without sink", policy="window", sink=0),
        Past(name="recomputed past", policy="recompute"),
    )
    modes: tuple[Mode, ...] = ("student",) if pipeline.bundle.teacher is None else ("student", "teacher")

    def recode(frames: "Tensor") -> "Tensor":
        return to_bytes(autoencoder.decode(autoencoder.encode(to_pixels(frames.numpy(), device)))[0])

    def made(seed: int, case: "Case") -> "Tensor":
        return torch.cat(list(pipeline.stream(case.said.prompt, seconds=seconds, seed=seed)))

    def rendered(seed: int, case: "Case") -> "Tensor":
        return case.render

    return StreamMeasurements(
        prompts=len(bench.cases),
        seed=bench.seed,
        clip_seconds=seconds,
        changes=measure_changes(
            bench,
            chunk=TIME_FACTOR * own.chunk,
            keeps_sink=own.carry is None,
            progress=stage("changes of prompt"),
        ),
        extensions=tuple(
            measure_extension(bench, of, clip, recode=recode, progress=stage(f"extension of {of}s"))
            for of, clip in (("render", rendered), ("own video", made))
        ),
        image=measure_image(bench, seconds=seconds, progress=stage("image-to-video")),
        translations=measure_translation(bench, default=STRENGTH, progress=stage("video-to-video")),
        variety=tuple(
            measure_variety(few, mode=mode, seconds=seconds, progress=stage(f"seeds, {mode}")) for mode in modes
        ),
        endless=measure_without_end(bench, few, pasts, minutes=minutes, stage=stage),
    )


def _cases(world: "World", own: "GenerationConfig", *, count: int, seed: int) -> "list[Case]":
    """Draw held-out scenes of one subject each, and what is asked of them."""
    from causvid.evaluate.bench import Case, Said
    from causvid.models.autoencoder import pixel_frames
    from causvid.worlds.storybook import caption, render, sample_scene

    frames = pixel_frames(own.clip_frames)
    drawn = (sample_scene(world, seed + number, split="held-out") for number in itertools.count())
    cases = []
    for scene in itertools.islice((one for one in drawn if one.morph is None and one.second is None), count):
        clip = render([scene], frames=frames, height=own.height, width=own.width, fps=own.fps)
        changed = {name: _changed(scene, name, getattr(world, field)) for name, field in _CHANGED.items()}
        cases.append(
            Case(
                said=Said(caption(scene, scene.seed, language=world.language), scene.readable()),
                bare=_bare(scene),
                changes={
                    name: Said(caption(one, scene.seed, language=world.language), one.readable())
                    for name, one in changed.items()
                },
                render=to_bytes(clip[0]),
            )
        )
    return cases


def _changed(scene: "Scene", attribute: str, values: tuple[str, ...]) -> "Scene":
    """Return the scene with another value of one attribute, the same for the same scene."""
    others = [value for value in values if value != getattr(scene, attribute)]
    if not others:
        raise ValueError(f"{attribute}={values[0]!r} is the only one of this world: nothing to change it to")
    draw = numpy.random.default_rng([scene.seed, _DRAW]).integers(len(others))
    changed: dict[str, Any] = {attribute: others[draw]}
    return replace(scene, **changed)


def _bare(scene: "Scene") -> str:
    """Say what a scene shows, but neither its colour nor its place."""
    from causvid.worlds.storybook.phrases import SUBJECT_WORDS, motion_phrases

    subject = SUBJECT_WORDS[scene.subject][0]
    article = "an" if subject[0] in "aeiou" else "a"
    return f"{article} {subject} {motion_phrases(scene.subject, scene.motion)[0]}"


def _describe(pipeline: "Pipeline") -> str:
    """Name a model, when it was finished, and its student's weights."""
    provenance = pipeline.bundle.provenance
    digest = sha256()
    for tensor in pipeline.bundle.transformer.state_dict().values():
        digest.update(tensor.float().cpu().numpy().tobytes())
    facts = {"": provenance.get("preset"), "finished ": provenance.get("finished")}
    known = [f"{name}{fact}" for name, fact in facts.items() if fact is not None]
    return ", ".join([*known, f"weights {digest.hexdigest()[:12]}"])
