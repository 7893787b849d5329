"""A timeline: prompts at times, and everything else that decides a video, as TOML or JSON; and its playback.

The same file is what a person writes to direct a video and what a finished run leaves behind to be played again.
"""

import itertools
import json
import os
import tomllib
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

import tomli_w
from pydantic import Field, ValidationError, model_validator

from causvid.config import Positive, one_line
from causvid.engine.request import GenerationOptions, Transition
from causvid.loading.spec import ModelSpec, split_strength
from causvid.opening import read_text

# A timeline is read and refused before torch is imported, which takes seconds.
if TYPE_CHECKING:
    from torch import Tensor

    from causvid.stream import Stream

SUFFIXES = (".toml", ".json")
LARGEST = 2**20
"""Bytes of a timeline, at most."""
MOST_SHOTS = 1000


class Shot(Transition):
    """What is shown from `at` seconds on. Of shots at one time, the later ones change what the earlier started.

    over: seconds a blend takes. image: the shot starts over with this picture as its first frame.
    """

    at: float = Field(ge=0, allow_inf_nan=False)
    over: Annotated[float, Field(gt=0, le=86_400)] = 1.0
    image: str | None = None


class Timeline(ModelSpec, GenerationOptions):
    """A video: which model makes it, its shots, and what holds for all of them; what is None is the model's own.

    versions: what made the video, for the record: the same versions on the same machine make it again bit for bit.
    """

    seconds: Positive
    shots: tuple[Shot, ...] = Field(min_length=1, max_length=MOST_SHOTS)
    after: str | None = None
    source: str | None = None
    versions: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check_shots(self) -> Self:
        times = [shot.at for shot in self.shots]
        if times[0] != 0:
            raise ValueError(f"shots.0.at={times[0]:g}: the first shot starts at 0")
        for number, (before, at) in enumerate(itertools.pairwise(times), 1):
            if at < before:
                raise ValueError(f"shots.{number}.at={at:g} is before the shot before it, at {before:g}")
            if at >= self.seconds:
                raise ValueError(f"shots.{number}.at={at:g} is past the end, seconds={self.seconds:g}")
        if self.shots[0].image is not None and (self.after or self.source):
            raise ValueError("shots.0.image: a video that follows another does not start with an image")
        if self.source is not None and any(shot.image for shot in self.shots):
            raise ValueError("image and source: a video that follows another has no images")
        return self

    @classmethod
    def load(cls, file: str | Path) -> "Timeline":
        """Read a timeline; paths in it are meant from the file's folder.

        Raises:
            ValueError: if the file is missing or cannot be read, or for what is wrong in it, naming the place.
        """
        path = check_suffix(Path(file))
        try:
            text = read_text(path, most=LARGEST)
        except (OSError, ValueError) as error:
            raise ValueError(f"timeline {error}") from None
        try:
            values = tomllib.loads(text) if path.suffix.lower() == ".toml" else json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"timeline {path} is not {path.suffix[1:].upper()}: {error}") from None
        try:
            timeline = cls.model_validate(values)
        except ValidationError as error:
            raise ValueError(f"timeline {path}: {one_line(error)}") from None
        return timeline._with_files(lambda name: _found_in(path.parent, name))

    @property
    def spec(self) -> ModelSpec:
        """Return which model plays it."""
        return ModelSpec.make(**{name: getattr(self, name) for name in ModelSpec.model_fields})

    @property
    def options(self) -> GenerationOptions:
        """Return what holds for all shots."""
        return GenerationOptions.make(**{name: getattr(self, name) for name in GenerationOptions.model_fields})

    def up_to(self, seconds: float) -> "Timeline":
        """Return the timeline cut to so many seconds."""
        shots = tuple(shot for shot in self.shots if shot.at < seconds)
        return self.model_copy(update={"seconds": seconds, "shots": shots})

    def save(self, file: str | Path) -> None:
        """Write the timeline as TOML or JSON, by suffix, leaving out what is as by default; `load` finds its files.

        Raises:
            ValueError: for another suffix.
        """
        from causvid.files.writing import new_file

        path = check_suffix(Path(file))
        there = self._with_files(lambda name: _seen_from(path.parent, name))
        values = there.model_dump(mode="json", exclude_defaults=True)
        text = tomli_w.dumps(values) if path.suffix.lower() == ".toml" else json.dumps(values, indent=2) + "\n"
        with new_file(path) as place:
            place.write_text(text, encoding="utf-8")

    def tags(self) -> dict[str, str]:
        """Return the tags of a video file that it is played into, which name its files without their folders."""
        there = self._with_files(lambda name: os.path.basename(name))
        made = there.model_dump(mode="json", exclude_defaults=True, exclude={"versions"}) | {"seed": self.seed}
        return provenance(self.shots[0].prompt, made)

    def _with_files(self, rename: Callable[[str], str]) -> "Timeline":
        """Return the timeline with its files named in another way."""

        def renamed(name: str | None) -> str | None:
            return None if name is None else rename(name)

        shots = tuple(shot.model_copy(update={"image": renamed(shot.image)}) for shot in self.shots)
        names = ["after", "source", "model", "student", "autoencoder", "umt5", "tiny_autoencoder"]
        if self.preset is not None and self.preset.endswith(".toml"):  # else it is a name, whatever the folder holds
            names.append("preset")
        files = {name: renamed(getattr(self, name)) for name in names}
        split = [split_strength(name) for name in self.lora or ()]
        loras = tuple(rename(name) + ("" if strength is None else f":{strength!r}") for name, strength in split)
        return self.model_copy(update={"shots": shots, "lora": loras or None, **files})


def _found_in(folder: Path, name: str) -> str:
    path = os.path.join(folder, name)
    return path if os.path.exists(path) else name


def _seen_from(folder: Path, name: str) -> str:
    relative = not os.path.isabs(name) and os.path.exists(name)
    return os.path.relpath(name, folder) if relative else name


def versions() -> dict[str, str]:
    """Return what a video is made with here and now."""
    return {"causvid": version("causvid"), "torch": version("torch")}


def provenance(title: str, made: Mapping[str, Any]) -> dict[str, str]:
    """Return tags of a video file that say how it was made: a title, and the rest as JSON in the comment."""
    said = {name: value for name, value in {**versions(), **made}.items() if value is not None}
    return {"title": title, "comment": json.dumps(said, ensure_ascii=False)}


def check_suffix(path: Path) -> Path:
    """Return `path` if a timeline can have such a name, else raise a `ValueError`."""
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"timeline {path} has suffix {path.suffix!r}, expected {' or '.join(SUFFIXES)}")
    return path


class Playback(Iterator["Tensor"]):
    """A timeline being played: each `next` makes a chunk and returns its frames, uint8 `[T, H, W, 3]`, on the CPU.

    A shot starts with the first chunk that starts at its time or later.
    """

    def __init__(self, timeline: Timeline, start: Callable[[Shot, int, int], "Stream"], *, fps: float) -> None:
        """Start the first shot. start: makes the stream of a shot, so many pixel frames long, with a seed."""
        self.timeline, self.fps = timeline, fps
        self.length = max(1, round(timeline.seconds * fps))
        self.frames = 0
        self._start = start
        self._waiting = list(timeline.shots[1:])
        self.stream = start(timeline.shots[0], self.length, timeline.seed)

    @property
    def latent(self) -> "Tensor | None":
        """Return the newest chunk before decoding, `[1, F, C, H, W]`; None before the first."""
        return self.stream.latent

    def __next__(self) -> "Tensor":
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
            self.stream = self._start(shot, self.length - self.frames, seed)
            return
        from causvid.models.autoencoder import TIME_FACTOR

        chunks = max(1, round(shot.over * self.fps / (TIME_FACTOR * self.stream.session.geometry.chunk)))
        self.stream.set_prompt(chunks=chunks, **shot.model_dump(include=set(Transition.model_fields)))


def record(stream: "Stream", *, factor: int) -> Timeline:
    """Return the timeline that plays a stream again, as far as it has come: its seed, its prompts, its settings.

    Args:
        factor: pixels of a latent position.
    """
    from causvid.models.autoencoder import TIME_FACTOR

    request, geometry, fps = stream.request, stream.session.geometry, stream.fps
    _, height, width = geometry.shape
    point = stream.session.point
    if (point.seed, point.strength) != (request.seed, request.strength):
        raise ValueError("the seed or the strength changed on the way, which a timeline cannot say: save the session")
    files = {name: getattr(request, name) for name in ("image", "after", "source")}
    unnamed = [name for name, file in files.items() if not isinstance(file, str | Path | None)]
    if unnamed:
        raise ValueError(f"{', '.join(unnamed)} was handed over in memory, which a timeline cannot name: give a file")
    named = {name: str(file) for name, file in files.items() if isinstance(file, str | Path)}
    image = named.pop("image", None)
    shots = tuple(
        Shot(
            at=frames / fps,
            over=change.chunks * TIME_FACTOR * geometry.chunk / fps,
            image=None if number else image,
            **change.model_dump(exclude={"chunks"}),
        )
        for number, (frames, change) in enumerate(stream.changes)
        if frames < max(1, stream.frames)
    )
    kept = {"seed", "strength", "adapt", "fit", "policy"}
    return Timeline.make(
        seconds=max(1, stream.frames) / fps,
        shots=shots,
        **request.model_dump(include=kept),
        **named,
        sigmas=geometry.sigmas,
        window=geometry.window,
        sink=geometry.sink,
        height=height * factor,
        width=width * factor,
        versions=versions(),
    )
