"""Judge a folder of videos by what a model's classifier reads off them, and a model by the videos it makes."""

import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from causvid.engine.memory import describe_machine
from causvid.evaluate.adherence import EDGE_SECONDS, Adherence, Drift, measure_drift, score, wanted
from causvid.evaluate.classifier import AttributeClassifier
from causvid.evaluate.report import EvaluationReport, Measurement, Speed
from causvid.evaluate.videos import (
    Maker,
    Manifest,
    Progress,
    Prompt,
    held_out,
    make_batch,
    make_videos,
    read_prompts,
    read_videos,
    renders,
)
from causvid.loading.bundle import Bundle
from causvid.pipeline import Pipeline
from causvid.worlds.storybook import World

LONG_BATCH = 4
"""Long videos in memory at once."""


def load_judge(bundle: Bundle) -> tuple[AttributeClassifier, World]:
    """Load a model's classifier, and the world that it was trained on.

    Raises:
        ValueError: the bundle has none, or does not name its world.
    """
    if bundle.classifier is None:
        raise ValueError("the bundle has no classifier/ to measure with; `causvid train classifier` makes one")
    name = bundle.provenance.get("world")
    if not isinstance(name, str):
        raise ValueError("the bundle does not name the world it was trained on (provenance.world in causvid.json)")
    # On the CPU, where videos and renders are.
    return AttributeClassifier.load(bundle.classifier), World.preset(name)


def choose_prompts(bundle: Bundle, file: Path | None, count: int | None, *, seed: int) -> list[Prompt]:
    """Take the first `count` prompts of a file, all by default; without one, held-out prompts of the model's world.

    Raises:
        ValueError: as `read_prompts`, or there is neither a file nor a world.
    """
    if file is not None:
        return read_prompts(file)[:count]
    if bundle.classifier is None or bundle.provenance.get("world") is None:
        raise ValueError("this model knows no world to take prompts from: give them, --file PROMPTS")
    return held_out(load_judge(bundle)[1], count or 100, seed=seed)


def judge_folder(folder: Path, pipeline: Pipeline) -> dict[str, Adherence]:
    """Score the videos of a folder beside renders of their scenes, where they have any; of long videos, also both ends.

    Raises:
        ValueError: it holds no finished videos of held-out prompts, or of prompts with labels.
    """
    classifier, world = load_judge(pipeline.bundle)
    manifest, found = Manifest.load(folder), dict[str, Adherence]()
    asked = list({prompt.scene: prompt for prompt in manifest.prompts}.values())
    if asked[0].scene is not None or not any(any(labels.values()) for labels in manifest.labels):
        found["renders"] = judge_renders(asked, classifier, world, pipeline)
    found[manifest.maker] = judge_adherence(folder, classifier)
    if manifest.seconds >= 2 * EDGE_SECONDS:
        drift = judge_drift(folder, classifier)
        found |= {f"first {EDGE_SECONDS:g} s": drift.first, f"last {EDGE_SECONDS:g} s": drift.last}
    return found


def judge_adherence(folder: Path, classifier: AttributeClassifier) -> Adherence:
    """Score the videos of a folder by the labels of their prompts."""
    manifest = Manifest.load(folder)
    return score(classifier, read_videos(folder, manifest), wanted(classifier, manifest.labels))


def judge_drift(folder: Path, classifier: AttributeClassifier) -> Drift:
    """Score the first and the last seconds of the long videos of a folder."""
    manifest = Manifest.load(folder)
    videos = read_videos(folder, manifest, batch=LONG_BATCH)
    return measure_drift(classifier, videos, wanted(classifier, manifest.labels), fps=manifest.generation.fps)


def judge_renders(
    prompts: Sequence[Prompt], classifier: AttributeClassifier, world: World, pipeline: Pipeline
) -> Adherence:
    """Score renders of the prompts' scenes, as long as a training clip: the ceiling, what perfect video reaches."""
    frames = round(pipeline.clip_seconds * pipeline.fps)
    labels = wanted(classifier, [prompt.labels for prompt in prompts])
    return score(classifier, renders(world, prompts, pipeline.generation, frames=frames), labels)


def first_videos(folder: Path, count: int) -> list[tuple[str, NDArray[np.uint8]]]:
    """Read the first videos of a folder, uint8 [T, H, W, 3] each, with their prompts."""
    manifest = Manifest.load(folder)
    shown = manifest.model_copy(update={"videos": manifest.videos[:count]})
    clips = [clip for batch in read_videos(folder, shown) for clip in batch.numpy()]
    return [(prompt.text, clip) for prompt, clip in zip(shown.prompts, clips, strict=True)]


def measure(
    pipeline: Pipeline,
    prompts: Sequence[Prompt],
    folder: Path,
    classifier: AttributeClassifier,
    *,
    maker: Maker,
    seed: int,
    progress: Progress | None = None,
) -> Measurement:
    """Make a clip of every prompt into a folder, judge the folder, and time single clips."""
    seconds = pipeline.clip_seconds
    manifest = make_videos(pipeline, prompts, folder, maker=maker, seed=seed, progress=progress)
    return Measurement(
        mode=maker,
        steps=manifest.steps,
        video_seconds=seconds,
        adherence=judge_adherence(folder, classifier),
        speed=measure_speed(pipeline, prompts[0].text, maker=maker, seconds=seconds, seed=seed),
    )


def measure_speed(
    pipeline: Pipeline, prompt: str, *, maker: Maker, seconds: float, seed: int, repeats: int = 3
) -> Speed:
    """Time single clips after one that is not counted; the student streams, the teacher cannot."""
    totals, firsts, frames = list[float](), list[float](), 0
    for number in range(seed, seed + repeats + 1):
        start, marks, frames = time.perf_counter(), list[float](), 0
        clip = (
            pipeline.stream(prompt, seconds=seconds, seed=number)
            if maker == "student"
            else (make_batch(pipeline, maker, [prompt], [number], seconds=seconds))
        )
        for part in clip:
            marks.append(time.perf_counter() - start)
            frames += part.shape[0]
        firsts.append(marks[0])
        totals.append(marks[-1])
    return Speed(
        clip_seconds=statistics.median(totals[1:]), first_frame_seconds=statistics.median(firsts[1:]), frames=frames
    )


def evaluate(
    pipeline: Pipeline,
    folder: Path,
    *,
    prompts: int,
    long_prompts: int,
    long_seconds: float,
    teacher: bool,
    seed: int,
    stage: Callable[[str], Progress],
) -> EvaluationReport:
    """Make student's, teacher's and long videos of held-out prompts into a folder, and measure all that a card states.

    Args:
        long_prompts: of how many of the prompts long videos are made; 0 makes none.
        teacher: measure it too, where the model has one.
        stage: names a part of the work and returns where its progress goes.
    """
    classifier, world = load_judge(pipeline.bundle)
    asked, device = held_out(world, prompts, seed=seed), pipeline.bundle.transformer.patch_in.weight.device
    ceiling = judge_renders(asked, classifier, world, pipeline)
    made: dict[Maker, Measurement] = {}
    makers: tuple[Maker, ...] = ("student", "teacher") if teacher and pipeline.bundle.teacher else ("student",)
    for maker in makers:
        progress = stage(maker)
        made[maker] = measure(pipeline, asked, folder / maker, classifier, maker=maker, seed=seed, progress=progress)
    drift = None
    if long_prompts:
        long = folder / "long"
        few, report = asked[:long_prompts], stage("long videos")
        make_videos(pipeline, few, long, seconds=long_seconds, seed=seed, batch=LONG_BATCH, progress=report)
        drift = judge_drift(long, classifier)
    return EvaluationReport(
        prompts=prompts,
        seed=seed,
        machine=describe_machine(device),
        native_fps=pipeline.fps,
        ceiling=ceiling,
        student=made["student"],
        teacher=made.get("teacher"),
        drift=drift,
    )
