"""Measure what can be done to a stream, and write a report.

    python studies/streams.py -o docs/streams --prompts 96

Change its prompt, extend a video, begin with an image, regenerate a video, run without end. Beside every count stands
the same count for videos of the prompt alone: what an operation costs is the difference.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, get_args

import torch
import typer
from cases import Bench, Case, Counts, draw_cases, take
from endless import measure_endless
from notebook import Notebook, Row
from seams import seam
from torch import Tensor

from causvid.cli.options import DeviceOption, ModelOption, load_pipeline, stages
from causvid.engine.request import STRENGTH, PromptMode
from causvid.evaluate.adherence import Tally
from causvid.evaluate.classifier import MIN_FRAMES
from causvid.evaluate.judge import load_judge
from causvid.media import contact_sheet
from causvid.models.autoencoder import TIME_FACTOR

BEFORE = 2.0
"""Seconds before a prompt changes; the chunk they end in is completed."""
SOON = 2.0
"""Seconds in which a new prompt should show, or by which a video is extended."""
STRENGTHS = (0.5, 0.6, 0.7, 0.8, 0.9)
SMOOTH = 2.0
"""A seam is smooth when it is at most so many ordinary steps of its video."""
ALONE = "the new prompt alone"
ABOUT = (
    "Held-out prompts with one subject each. A classifier trained on renders of the world reads attributes off the "
    "frames: counts, with Wilson's 95 % interval in percent. A seam is the mean absolute difference of two "
    "neighbouring frames over the median of such differences in the same video."
)


def measure_changes(bench: Bench, book: Notebook) -> None:
    """Change one attribute of every case's prompt in every mode; the attributes take turns."""
    soon, second = max(bench.frames(SOON), MIN_FRAMES), max(bench.frames(SOON / 2), MIN_FRAMES)
    over = max(1, soon // (TIME_FACTOR * bench.pipeline.generation.chunk))  # a blend ends when a prompt should show
    modes, attributes = get_args(PromptMode), list(bench.cases[0].changes)
    names = (*modes, ALONE, "prompt not changed")
    counts, seams = {name: Counts() for name in names}, {name: list[float]() for name in names}
    early, late = f"{SOON / 2:g}–{SOON:g} s", f"{SOON:g}–{2 * SOON:g} s"
    for seed, case in bench.numbered("changes of prompt"):
        changed = attributes[(seed - bench.seed) % len(attributes)]
        new, stream = case.changes[changed], bench.pipeline.stream(case.prompt.text, seed=seed)
        start = take(stream, bench.frames(BEFORE))
        at, videos = len(start), {}
        for mode in modes:
            fork = stream.fork()
            fork.set_prompt(new.text, mode, chunks=over)
            videos[mode] = torch.cat((start, take(fork, 2 * soon)))
            bench.show("prompt", f"{mode}: {case.prompt.text}; then {new.text}", videos[mode], seed=seed)
        videos[ALONE] = take(bench.pipeline.stream(new.text, seed=seed), at + 2 * soon)
        videos[names[-1]] = torch.cat((start, take(stream, 2 * soon)))
        for name, video in videos.items():
            seams[name].append(seam(video, at))
        for span, first, last in ((early, at + soon - second, at + soon), (late, at + soon, at + 2 * soon)):
            matches = bench.matches([video[first:last] for video in videos.values()], new.labels)
            columns = {one: f"{'new seen' if one == changed else 'others kept'}, {span}" for one in new.labels}
            for name, match in zip(videos, matches, strict=True):
                counts[name].add(match, columns)
    for mode in modes:
        for column in (f"new seen, {early}", f"others kept, {early}"):
            book.close(f"prompt, {mode}: {column}", counts[mode].total(column), counts[ALONE].total(column), ALONE)
        if mode != "cut":
            _smooth(book, f"prompt, {mode}", seams[mode])
    about = (
        "One attribute becomes another, in turns. A cut changes the text alone, a recache also recomputes the visible "
        f"history under it, a blend interpolates over {over} chunks. Seconds are counted from the change."
    )
    rows = [_row(name, counts[name], seams[name]) for name in names]
    book.section("A prompt that changes", about, rows, "prompt")


def measure_extension(bench: Bench, book: Notebook, plain: Counts) -> None:
    """Extend the render of every case, and a clip that the model made. plain: counts of clips of the prompts alone."""
    seconds, rows = max(SOON, MIN_FRAMES / bench.pipeline.fps), []

    def own(seed: int, case: Case) -> Tensor:
        return torch.cat(list(bench.pipeline.stream(case.prompt.text, seconds=bench.pipeline.clip_seconds, seed=seed)))

    sources: dict[str, Callable[[int, Case], Tensor]] = {"renders": lambda seed, case: case.render, "own videos": own}
    for of, clip in sources.items():
        before, after = Counts(), Counts()
        seams = []
        for seed, case in bench.numbered(f"extension of {of}"):
            frames = clip(seed, case)
            # Another seed than the clip's own: the noise that made its beginning must not continue it.
            stream = bench.pipeline.stream(case.prompt.text, seconds=seconds, seed=seed + 2**20, after=frames.numpy())
            new = torch.cat(list(stream))
            video = torch.cat((frames, new))
            seams.append(seam(video, len(frames)))
            before.add(bench.matches([frames], case.prompt.labels)[0])
            after.add(bench.matches([new], case.prompt.labels)[0])
            bench.show("extension", f"{of}, extended: {case.prompt.text}", video, seed=seed)
        _smooth(book, f"extension of {of}", seams)
        book.close(f"extension of {of}: attributes kept", after.total(), plain.total(), "the prompt alone")
        rows += [Row(name=f"{of}, source", readings=before.tallies()), _row(f"{of}, new", after, seams)]
    about = f"{SOON:g} s are added to a clip's frames under the same prompt."
    book.section("A video that is extended", about, rows, "extension")


def measure_image(bench: Bench, book: Notebook) -> Counts:
    """Begin clips with the first frame of every case's render; return the counts of clips of the prompts alone."""
    names = ("image and prompt", "the prompt alone", "image, prompt without colour and place", "that prompt alone")
    counts = {name: Counts() for name in names}
    for seed, case in bench.numbered("image-to-video"):
        clips = []
        for prompt in (case.prompt.text, case.bare):
            for image in (case.render[0].numpy(), None):
                stream = bench.pipeline.stream(prompt, seconds=bench.pipeline.clip_seconds, seed=seed, image=image)
                clips.append(torch.cat(list(stream)))
            bench.show("image", f"first frame from a render: {prompt}", clips[-2], seed=seed)
        for name, match in zip(names, bench.matches(clips, case.prompt.labels), strict=True):
            counts[name].add(match)
    with_image, plain, bare_with_image, _ = counts.values()
    looks = ("subject", "colour", "place")
    book.close("image: subject, colour, place", with_image.total(*looks), plain.total(*looks), "the prompt alone")
    wanted = "image, prompt without colour and place: both"
    book.close(wanted, bare_with_image.total(*looks[1:]), plain.total(*looks[1:]), "a prompt that names them")
    rows = [Row(name=name, readings=count.tallies()) for name, count in counts.items()]
    about = "Clips that begin with the first frame of a render, compared with the render's scene."
    book.section("An image that begins to move", about, rows, "image")
    return plain


def measure_video_to_video(bench: Bench, book: Notebook) -> None:
    """Regenerate every case's render with another colour or another subject, in turns, by strength."""
    names = [f"strength {strength:g}" for strength in STRENGTHS]
    counts = {name: Counts() for name in (*names, ALONE)}
    for seed, case in bench.numbered("video-to-video"):
        changed = ("colour", "subject")[(seed - bench.seed) % 2]
        new, source = case.changes[changed], case.render.numpy()
        streams = [bench.pipeline.stream(new.text, seed=seed, source=source, strength=s) for s in STRENGTHS]
        clips = [torch.cat(list(stream)) for stream in streams]
        clips.append(take(bench.pipeline.stream(new.text, seed=seed), len(source))[: len(source)])
        columns = {one: "changed seen" if one == changed else f"{one} kept" for one in new.labels}
        for name, match in zip(counts, bench.matches(clips, new.labels), strict=True):
            counts[name].add(match, columns)
        bench.show("video", f"source: {case.prompt.text}", case.render, seed=seed)
        for name, clip in list(zip(names, clips, strict=False))[::2]:
            bench.show("video", f"{name}: {new.text}", clip, seed=seed)
    balance: dict[str, float] = {}
    for name, one in counts.items():
        seen, kept = one.total("seen").accuracy, one.total("kept").accuracy
        balance[name] = 2 * seen * kept / max(seen + kept, 1e-9)
    best = max(names, key=lambda name: round(balance[name], 6))
    for part in ("seen", "kept"):
        book.close(f"video, {best}: {part}", counts[best].total(part), counts[ALONE].total(part), ALONE)
    rows = [Row(name=name, readings=one.tallies(), numbers={"balance": balance[name]}) for name, one in counts.items()]
    about = f"Balance: harmonic mean of changed seen and all others kept. The default strength is {STRENGTH:g}."
    book.section("A video regenerated", about, rows, "video")


def _row(name: str, counts: Counts, seams: list[float]) -> Row:
    every = torch.tensor(seams, dtype=torch.float64)
    smooth = Tally(correct=int((every <= SMOOTH).sum()), count=len(seams))
    numbers = {"seam, median": float(every.quantile(0.5)), "seam, a tenth exceeds": float(every.quantile(0.9))}
    return Row(name=name, readings={**counts.tallies(), f"seam at most {SMOOTH:g}": smooth}, numbers=numbers)


def _smooth(book: Notebook, name: str, seams: list[float]) -> None:
    median = float(torch.tensor(seams, dtype=torch.float64).quantile(0.5))
    book.limit(f"{name}: median seam at most {SMOOTH:g} ordinary steps", median, SMOOTH, f"{median:.2f}")


def main(
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the report and its pictures.")],
    model: ModelOption = None,
    prompts: Annotated[int, typer.Option(min=1, help="Held-out prompts.")] = 40,
    minutes: Annotated[float, typer.Option(min=0.1, help="Length of the streams without end.")] = 10.0,
    device: DeviceOption = None,
) -> None:
    """Measure changes of prompt, extension, image- and video-to-video, and streams without end."""
    output.mkdir(parents=True, exist_ok=True)  # before minutes of measuring, not after
    pipeline = load_pipeline(model, device)
    classifier, world = load_judge(pipeline.bundle)
    cases, book = draw_cases(world, pipeline.generation, prompts), Notebook()
    with stages() as stage, torch.inference_mode():
        bench = Bench(pipeline, classifier, cases, stage)
        measure_changes(bench, book)
        plain = measure_image(bench, book)
        measure_extension(bench, book, plain)
        measure_video_to_video(bench, book)
        measure_endless(bench, book, minutes=minutes)
    pictures = {
        name: contact_sheet([video for _, video in shown], [caption for caption, _ in shown])
        for name, shown in bench.pictures.items()
    }
    about = f"{ABOUT} {prompts} prompts."
    book.write(output, "What can be done to a stream", about, pipeline, pictures)


if __name__ == "__main__":
    typer.run(main)
