"""Measure what can be done to a stream: change its prompt, go on from a video, begin with an image, redo a video.

A classifier reads off the frames what they show. Beside every count stands the same count for videos made from the
prompt alone: what an operation costs is the difference.

Letters: T pixel frames, H W rows and columns, D features.
"""

from collections.abc import Callable, Sequence
from typing import cast, get_args

import torch
from torch import Tensor

from causvid.config import Settings
from causvid.evaluate.adherence import Mode, Progress
from causvid.engine.bench import (
    Bench,
    Case,
    Counts,
    Readings,
    Steps,
    difference,
    ordinary_step,
    pooled,
    seam,
    take,
)
from causvid.evaluate.classifier import MIN_FRAMES, AttributeClassifier
from causvid.engine.state import PromptMode
from causvid.stream import Stream

BEFORE = 2.0
"""Seconds before a prompt changes; the chunk they end in is made to its end."""
SOON = 2.0
"""Seconds in which a new prompt is to show, or that a video is gone on with."""
STRENGTHS = (0.5, 0.6, 0.7, 0.8, 0.9)


class Followed(Settings):
    """How videos follow a changed prompt: the attribute that changed, seen; the others, kept."""

    seen: Readings
    kept: Readings


class PromptChange(Settings):
    """One way to change a prompt, read in the second half of the first two seconds, and in the two after them.

    seam: the step into the first frame after the change. largest: the largest step of the first two seconds.
    """

    mode: PromptMode
    keep_sink: bool
    dissolve: bool
    soon: Followed
    later: Followed
    seam: Steps
    largest: Steps

    @property
    def hard(self) -> bool:
        """Tell whether it jumps where it could have dissolved."""
        return self.mode != "cut" and not self.dissolve


class PromptChanges(Settings):
    """All ways to change a prompt, beside videos of the new prompt alone and the seam of videos that keep the old.

    before: pixel frames made under the old prompt. chunks: over which a blend goes. keeps_sink: whether the model keeps
    its sink if it is not told.
    """

    before: int
    chunks: int
    keeps_sink: bool
    alone_soon: Followed
    alone_later: Followed
    unchanged: Steps
    unchanged_largest: Steps
    changes: tuple[PromptChange, ...]

    @property
    def unasked(self) -> tuple[PromptChange, ...]:
        """Return every mode as the model changes its prompt if it is told nothing else."""
        return tuple(one for one in self.changes if one.keep_sink == self.keeps_sink and not one.hard)


class Extension(Settings):
    """Videos gone on with: what was read off the given part and off the new one, and the step between them.

    decoded: the same step from the last frame as the autoencoder gives it back; encoding: from the last frame to that.
    """

    of: str
    given: Readings
    kept: Readings
    seam: Steps
    decoded: Steps
    encoding: Steps


class ImageToVideo(Settings):
    """What is read off videos that begin with an image, and off videos from the same prompt alone.

    bare: the prompt names neither colour nor place.
    """

    image: Readings
    plain: Readings
    image_bare: Readings
    plain_bare: Readings


class Translation(Settings):
    """Videos made anew under a prompt with one attribute changed: that attribute, seen; the others, kept."""

    strength: float
    adapt: bool
    followed: Followed

    @property
    def balance(self) -> float:
        """Return the harmonic mean of both fractions: high only where what changed is seen and the rest is kept."""
        seen, kept = pooled(self.followed.seen).accuracy, pooled(self.followed.kept).accuracy
        return 2 * seen * kept / max(seen + kept, 1e-9)


class Translations(Settings):
    """Video-to-video by strength, beside videos of the new prompt alone. default: what the pipeline takes unasked."""

    default: float
    alone: Followed
    by_strength: tuple[Translation, ...]

    @property
    def best(self) -> Translation:
        """Return the best balanced strength; of equals, the lowest and the one that does not adapt."""
        return max(self.by_strength, key=lambda one: (round(one.balance, 6), not one.adapt, -one.strength))


class Variety(Settings):
    """Mean distance of the classifier's features between clips: of one prompt by seed, and of different prompts."""

    mode: Mode
    prompts: int
    seeds: int
    of_seeds: float
    of_prompts: float


class _Following:
    """A `Followed` that is still being counted."""

    def __init__(self) -> None:
        self.seen, self.kept = Counts(), Counts()

    def add(self, match: dict[str, bool], changed: str) -> None:
        self.seen.add(match, [changed])
        self.kept.add(match, [name for name in match if name != changed])

    @property
    def followed(self) -> Followed:
        return Followed(seen=self.seen.readings, kept=self.kept.readings)


def measure_changes(
    bench: Bench, *, chunk: int, keeps_sink: bool = True, progress: Progress | None = None
) -> PromptChanges:
    """Change the prompt of a stream of every case in every way; the attributes that change take turns.

    chunk: pixel frames of a chunk. keeps_sink: whether the model keeps its sink if it is not told. Blends go over as
    many chunks as end within the time in which a prompt is to show.
    """
    modes: tuple[PromptMode, ...] = get_args(PromptMode)
    ways = [(mode, keep_sink, mode != "cut") for mode in modes for keep_sink in (keeps_sink, not keeps_sink)]
    ways += [(mode, keeps_sink, False) for mode in modes if mode != "cut"]
    names = list(bench.cases[0].changes)
    soon, second = max(bench.frames(SOON), MIN_FRAMES), max(bench.frames(SOON / 2), MIN_FRAMES)
    over = max(1, soon // chunk)
    early, late = ([_Following() for _ in (*ways, "alone")] for _ in range(2))
    seams, largest = ([list[float]() for _ in (*ways, "unchanged")] for _ in range(2))
    before = 0
    for seed, case in bench.numbered(progress):
        changed = names[(seed - bench.seed) % len(names)]
        new = case.changes[changed]
        stream = cast(Stream, bench.pipeline.stream(case.said.prompt, seed=seed))
        start = take(stream, bench.frames(BEFORE))
        before = len(start)
        videos = []
        for mode, keep_sink, dissolve in ways:
            fork = stream.fork()
            fork.set_prompt(new.prompt, mode, chunks=over, keep_sink=keep_sink, dissolve=dissolve)
            videos.append(torch.cat((start, take(fork, 2 * soon))))
        unchanged = torch.cat((start, take(stream, 2 * soon)))
        for i, video in enumerate([*videos, unchanged]):
            seams[i].append(seam(video, before))
            largest[i].append(seam(video, before, before + soon))
        videos.append(take(bench.pipeline.stream(new.prompt, seed=seed), before + 2 * soon))
        stretches = ((early, before + soon - second, before + soon), (late, before + soon, before + 2 * soon))
        for followings, first, last in stretches:
            matches = bench.matches([video[first:last] for video in videos], new.words)
            for following, match in zip(followings, matches, strict=True):
                following.add(match, changed)
        for (mode, keep_sink, dissolve), video in zip(ways, videos, strict=False):
            if keep_sink == keeps_sink and dissolve == (mode != "cut"):
                bench.example(seed, "prompt", f"{mode}: {case.said.prompt}; then {new.prompt}", video)
    return PromptChanges(
        before=before,
        chunks=over,
        keeps_sink=keeps_sink,
        alone_soon=early[-1].followed,
        alone_later=late[-1].followed,
        unchanged=Steps.of(seams[-1]),
        unchanged_largest=Steps.of(largest[-1]),
        changes=tuple(
            PromptChange(
                mode=mode,
                keep_sink=keep_sink,
                dissolve=dissolve,
                soon=early[i].followed,
                later=late[i].followed,
                seam=Steps.of(seams[i]),
                largest=Steps.of(largest[i]),
            )
            for i, (mode, keep_sink, dissolve) in enumerate(ways)
        ),
    )


def measure_extension(
    bench: Bench,
    of: str,
    clip: Callable[[int, Case], Tensor],
    *,
    recode: Callable[[Tensor], Tensor],
    progress: Progress | None = None,
) -> Extension:
    """Go on with a clip of every case.

    clip: the clip of a seed and case, uint8 [T, H, W, 3]; its frames are handed over, so they go through the
    autoencoder. of: what each clip is. recode: encodes a clip and decodes it again.
    """
    given, kept = Counts(), Counts()
    seams, decoded, encoding = [], [], []
    seconds = max(SOON, MIN_FRAMES / bench.pipeline.fps)
    for seed, case in bench.numbered(progress):
        frames = clip(seed, case)
        # Another seed than the clip's own: it must not go on with the noise that made its beginning.
        stream = bench.pipeline.stream(case.said.prompt, seconds=seconds, seed=seed + 2**20, after=frames.numpy())
        new = torch.cat(list(stream))
        video, last = torch.cat((frames, new)), recode(frames)[-1:]
        ordinary = ordinary_step(video, len(frames))
        seams.append(seam(video, len(frames)))
        decoded.append(float(difference(new[:1], last)) / ordinary)
        encoding.append(float(difference(last, frames[-1:])) / ordinary)
        given.add(bench.matches([frames], case.said.words)[0])
        kept.add(bench.matches([new], case.said.words)[0])
        bench.example(seed, "extension", f"{of}, gone on with: {case.said.prompt}", video)
    return Extension(
        of=of,
        given=given.readings,
        kept=kept.readings,
        seam=Steps.of(seams),
        decoded=Steps.of(decoded),
        encoding=Steps.of(encoding),
    )


def measure_image(bench: Bench, *, seconds: float, progress: Progress | None = None) -> ImageToVideo:
    """Begin a clip with the first frame of every case's render, and beside it make one from the prompt alone."""
    counts = [Counts() for _ in range(4)]
    for seed, case in bench.numbered(progress):
        image = case.render[0].numpy()
        clips = []
        for prompt in (case.said.prompt, case.bare):
            for picture in (image, None):
                stream = bench.pipeline.stream(prompt, seconds=seconds, seed=seed, image=picture)
                clips.append(torch.cat(list(stream)))
            bench.example(seed, "image", f"first frame given: {prompt}", clips[-2])
        for count, match in zip(counts, bench.matches(clips, case.said.words), strict=True):
            count.add(match)
    with_image, plain, bare_with_image, bare = (count.readings for count in counts)
    return ImageToVideo(image=with_image, plain=plain, image_bare=bare_with_image, plain_bare=bare)


def measure_translation(
    bench: Bench,
    *,
    default: float,
    strengths: Sequence[float] = STRENGTHS,
    progress: Progress | None = None,
) -> Translations:
    """Make every case's render anew with another colour or another subject, which take turns, by strength."""
    ways = [(strength, adapt) for adapt in (False, True) for strength in strengths]
    followings = [_Following() for _ in (*ways, "alone")]
    for seed, case in bench.numbered(progress):
        changed = ("colour", "subject")[(seed - bench.seed) % 2]
        new, source = case.changes[changed], case.render.numpy()
        made = (
            bench.pipeline.stream(new.prompt, seed=seed, source=source, strength=strength, adapt=adapt)
            for strength, adapt in ways
        )
        clips = [torch.cat(list(stream)) for stream in made]
        clips.append(take(bench.pipeline.stream(new.prompt, seed=seed), len(source))[: len(source)])
        for following, match in zip(followings, bench.matches(clips, new.words), strict=True):
            following.add(match, changed)
        bench.example(seed, "video", f"the video given: {case.said.prompt}", case.render)
        for (strength, adapt), clip in zip(ways, clips, strict=False):
            if not adapt and strength in strengths[::2]:
                bench.example(seed, "video", f"strength {strength:g}: {new.prompt}", clip)
    return Translations(
        default=default,
        alone=followings[-1].followed,
        by_strength=tuple(
            Translation(strength=strength, adapt=adapt, followed=following.followed)
            for (strength, adapt), following in zip(ways, followings, strict=False)
        ),
    )


def measure_variety(
    bench: Bench, *, mode: Mode, seconds: float, seeds: int = 4, progress: Progress | None = None
) -> Variety:
    """Make clips of every case with several seeds, the same for every case, and tell how much they differ."""
    described = []
    for _, case in bench.numbered(progress):
        numbers = range(bench.seed, bench.seed + seeds)
        clips = bench.pipeline.generate_batch([case.said.prompt] * seeds, seeds=numbers, seconds=seconds, mode=mode)
        described.append(_features(bench.classifier, clips))
    every = torch.stack(described).double()  # [prompts, seeds, D]
    distances = torch.cdist(every.flatten(0, 1), every.flatten(0, 1)) / every.shape[-1] ** 0.5
    prompt = torch.arange(len(described)).repeat_interleave(seeds)
    same = prompt[:, None] == prompt
    pairs = same & ~torch.eye(len(prompt), dtype=torch.bool)
    return Variety(
        mode=mode,
        prompts=len(described),
        seeds=seeds,
        of_seeds=_mean(distances[pairs]),
        of_prompts=_mean(distances[~same]),
    )


@torch.no_grad()
def _features(classifier: AttributeClassifier, clips: Tensor) -> Tensor:
    """Describe clips, uint8 [B, T, H, W, 3], by their features [B, D]."""
    return classifier.features(clips.movedim(-1, 2).float() / 255)


def _mean(values: Tensor) -> float:
    """Return the mean; 0 of nothing."""
    return round(float(values.mean()), 4) if values.numel() else 0.0
