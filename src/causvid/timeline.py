"""A film as a script: what is shown from when on, and everything else that decides it, as TOML or JSON.

The same file is what a person writes to direct a film and what a finished run leaves behind to be played again.
"""

import itertools
import json
import os
import tomllib
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import tomli_w
import torch
from pydantic import Field, NonNegativeInt, PositiveInt, ValidationError, model_validator

from causvid.config import Positive, Settings, one_line
from causvid.engine.source import STRENGTH
from causvid.engine.state import Policy, PromptMode
from causvid.media import Fit

SUFFIXES = (".toml", ".json")
PARTS = ("model", "student", "tiny_autoencoder", "lora", "lora_strength", "preset", "dtype")
"""What a timeline says of the model that plays it, for whoever loads one: named and meant as by `assemble`."""
LARGEST = 2**20
"""Bytes of a timeline, at most."""


class Shot(Settings):
    """What is shown from `at` seconds on. Of shots at one time, the later ones change what the earlier began.

    mode: how the prompt changes; keep_sink, carry, dissolve: what stays in sight and how soft the change is, all as in
    `Stream.set_prompt`. over: seconds a blend takes. image: the shot begins anew with this picture as its first frame.
    """

    at: float = Field(ge=0, allow_inf_nan=False)
    prompt: str
    mode: PromptMode = "recache"
    over: Positive = 1.0
    keep_sink: bool | None = None
    carry: PositiveInt | None = None
    dissolve: bool = True
    image: str | None = None


class Timeline(Settings):
    """A film: its shots, and what holds for all of them; what is None is the model's own.

    model to dtype: what plays it, see `PARTS`. after: a video to go on from; source: a video to make anew, at
    `strength`. versions: what made the film, for the record: the same versions on the same machine make it again bit
    for bit.
    """

    seconds: Positive
    shots: tuple[Shot, ...] = Field(min_length=1)
    seed: int = Field(default=0, ge=0, lt=2**63)
    model: str | None = None
    student: str | None = None
    tiny_autoencoder: str | None = None
    lora: str | None = None
    lora_strength: float | None = Field(default=None, allow_inf_nan=False)
    preset: str | None = None
    dtype: Literal["fp32", "bf16", "fp16"] | None = None
    steps: PositiveInt | None = None
    sigmas: tuple[float, ...] | None = None
    window: NonNegativeInt | None = None
    sink: NonNegativeInt | None = None
    height: PositiveInt | None = None
    width: PositiveInt | None = None
    policy: Policy = "window"
    after: str | None = None
    source: str | None = None
    strength: float = Field(default=STRENGTH, gt=0, le=1)
    adapt: bool = False
    fit: Fit = "cover"
    versions: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check(self) -> "Timeline":
        times = [shot.at for shot in self.shots]
        if times[0] != 0:
            raise ValueError(f"shots.0.at={times[0]:g}: the first shot starts at 0")
        for number, (before, at) in enumerate(itertools.pairwise(times), 1):
            if at < before:
                raise ValueError(f"shots.{number}.at={at:g} is before the shot before it, at {before:g}")
            if at >= self.seconds:
                raise ValueError(f"shots.{number}.at={at:g} is past the end, seconds={self.seconds:g}")
        if self.lora is None and self.lora_strength is not None:
            raise ValueError(f"lora_strength={self.lora_strength:g} needs a LoRA: give lora")
        if self.after is not None and self.source is not None:
            raise ValueError("after and source: give one, a film begins in one way")
        if self.shots[0].image is not None and (self.after or self.source):
            raise ValueError("shots.0.image: a film that follows a video does not begin with an image")
        if self.source is not None and any(shot.image for shot in self.shots):
            raise ValueError("image and source: a film that follows a video has no images")
        return self

    @classmethod
    def load(cls, file: str | Path) -> "Timeline":
        """Read a timeline; paths in it are meant from the file's folder.

        Raises:
            ValueError: if the file is missing or cannot be read, or for what is wrong in it, naming the place.
        """
        path = check_suffix(Path(file))
        try:
            with path.open("rb") as opened:
                data = opened.read(LARGEST + 1)
        except OSError as error:
            raise ValueError(f"timeline {path} cannot be read: {error.strerror}") from None
        if len(data) > LARGEST:
            raise ValueError(f"timeline {path} is of more than {LARGEST} bytes: it is none")
        try:
            text = data.decode()
            values = tomllib.loads(text) if path.suffix.lower() == ".toml" else json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"timeline {path} is not {path.suffix[1:].upper()}: {error}") from None
        try:
            timeline = cls.model_validate(values)
        except ValidationError as error:
            raise ValueError(f"timeline {path}: {one_line(error)}") from None
        return timeline._with_files(lambda name: _found_in(path.parent, name))

    @property
    def parts(self) -> dict[str, Any]:
        """Return what it says of the model that plays it."""
        return {name: getattr(self, name) for name in PARTS}

    def up_to(self, seconds: float) -> "Timeline":
        """Return the film cut to so many seconds."""
        shots = tuple(shot for shot in self.shots if shot.at < seconds)
        return self.model_copy(update={"seconds": seconds, "shots": shots})

    @classmethod
    def make(cls, **values: object) -> "Timeline":
        """Make a timeline; raise a `ValueError` of one line for what is wrong in it, naming place and value."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            value = error.errors()[0]["input"]
            shown = f"={value:g}: " if isinstance(value, int | float) else ": "
            raise ValueError(one_line(error).replace(": ", shown, 1)) from None

    def save(self, file: str | Path) -> None:
        """Write the timeline as TOML or JSON, by suffix, leaving out what is as by default; `load` finds its files.

        Raises:
            ValueError: for another suffix.
        """
        path = check_suffix(Path(file))
        there = self._with_files(lambda name: _seen_from(path.parent, name))
        values = there.model_dump(mode="json", exclude_defaults=True)
        text = tomli_w.dumps(values) if path.suffix.lower() == ".toml" else json.dumps(values, indent=2) + "\n"
        partial = path.with_name(f".{path.name}.partial")
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)

    def _with_files(self, rename: Callable[[str], str]) -> "Timeline":
        """Return the timeline with its files named in another way."""

        def renamed(name: str | None) -> str | None:
            return None if name is None else rename(name)

        shots = tuple(shot.model_copy(update={"image": renamed(shot.image)}) for shot in self.shots)
        names = ["after", "source", "model", "student", "tiny_autoencoder", "lora"]
        if self.preset is not None and self.preset.endswith(".toml"):  # else it is a name, whatever the folder holds
            names.append("preset")
        files = {name: renamed(getattr(self, name)) for name in names}
        return self.model_copy(update={"shots": shots, **files})


def _found_in(folder: Path, name: str) -> str:
    path = os.path.join(folder, name)
    return path if os.path.exists(path) else name


def _seen_from(folder: Path, name: str) -> str:
    relative = not os.path.isabs(name) and os.path.exists(name)
    return os.path.relpath(name, folder) if relative else name


def versions() -> dict[str, str]:
    """Return what a film is made with here and now."""
    return {"causvid": version("causvid"), "torch": torch.__version__}


def check_suffix(path: Path) -> Path:
    """Return `path` if a timeline can have such a name, else raise a `ValueError`."""
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"timeline {path} has suffix {path.suffix!r}, expected {' or '.join(SUFFIXES)}")
    return path
