"""A timeline being played: one video, whose streams and prompts change at the times it says."""

from collections.abc import Iterator
from typing import Protocol

from torch import Tensor

from causvid.stream import Stream
from causvid.timeline import Shot, Timeline, versions
from causvid.media import Fit
from causvid.models.autoencoder import TIME_FACTOR


class Start(Protocol):
    """Begin a stream for a shot, `frames` pixel frames long, with the timeline's other settings."""

    def __call__(self, shot: Shot, *, frames: int, seed: int) -> Stream: ...


class Film(Iterator[Tensor]):
    """Each `next` makes a chunk and returns its frames, uint8 `[T, H, W, 3]`, on the CPU.

    A shot begins with the first chunk that starts at its time or later.
    """

    def __init__(self, timeline: Timeline, start: Start, *, fps: float) -> None:
        """Begin with the first shot; the others wait."""
        self.timeline, self.fps = timeline, fps
        self.length = max(1, round(timeline.seconds * fps))
        self.frames = 0
        self._start = start
        self._waiting = list(timeline.shots[1:])
        self.stream = start(timeline.shots[0], frames=self.length, seed=timeline.seed)

    @property
    def latent(self) -> Tensor | None:
        """Return the newest chunk before decoding, `[1, F, C, H, W]`; None before the first."""
        return self.stream.latent

    def __next__(self) -> Tensor:
        if self.frames >= self.length:
            raise StopIteration
        while self._waiting and round(self._waiting[0].at * self.fps) <= self.frames:
            self._change(self._waiting.pop(0))
        frames = next(self.stream)
        self.frames += len(frames)
        return frames

    def _change(self, shot: Shot) -> None:
        if shot.image is not None:
            seed = self.timeline.seed + self.timeline.shots.index(shot)
            self.stream = self._start(shot, frames=self.length - self.frames, seed=seed)
            return
        chunks = max(1, round(shot.over * self.fps / (TIME_FACTOR * self.stream.settings.chunk)))
        self.stream.set_prompt(
            shot.prompt,
            shot.mode,
            chunks=chunks,
            keep_sink=shot.keep_sink,
            carry=shot.carry,
            dissolve=shot.dissolve,
        )


def script(
    stream: Stream, *, fps: float, factor: int, image: str | None, after: str | None, source: str | None, fit: Fit
) -> Timeline:
    """Return the timeline that plays a stream again, as far as it has come: its seed, its prompts, its settings.

    Args:
        fps, factor: frames a second of the model, and pixels of a latent position.
        image, after, source, fit: the file the stream began with, if it began with one.
    """
    settings = stream.settings
    _, height, width = settings.shape
    shots = tuple(
        Shot(
            at=change.frames / fps,
            prompt=change.prompt,
            mode=change.mode,
            over=change.chunks * TIME_FACTOR * settings.chunk / fps,
            keep_sink=change.keep_sink,
            carry=change.carry,
            dissolve=change.dissolve,
            image=None if number else image,
        )
        for number, change in enumerate(stream.changes)
        if change.frames < max(1, stream.frames)
    )
    return Timeline(
        seconds=max(1, stream.frames) / fps,
        shots=shots,
        seed=stream.seed,
        sigmas=settings.sigmas,
        window=settings.window,
        sink=settings.sink,
        height=height * factor,
        width=width * factor,
        policy=settings.policy,
        after=after,
        source=source,
        strength=settings.strength,
        adapt=settings.adapt,
        fit=fit,
        versions=versions(),
    )
