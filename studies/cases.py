"""Scenes that streams are measured on, what is asked of them, and counts of what a classifier reads off the frames.

Letters: T pixel frames, H W rows and columns.
"""

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy
import torch
from torch import Tensor

from causvid.config import GenerationConfig
from causvid.evaluate.adherence import Tally, pooled, read
from causvid.evaluate.classifier import IGNORED, AttributeClassifier, labels_of
from causvid.evaluate.videos import Progress, Prompt
from causvid.media import to_bytes
from causvid.models.autoencoder import pixel_frames
from causvid.pipeline import Pipeline
from causvid.worlds.storybook import Scene, World, caption, render, sample_scene
from causvid.worlds.storybook.phrases import SUBJECT_WORDS, motion_phrases

EXAMPLES = 2
_CHANGED = {"colour": "colours", "subject": "subjects", "place": "places", "motion": "motions"}
_DRAW = 3
"""Separates the draws of changed attributes from those of scenes and captions."""


@dataclass(frozen=True)
class Case:
    """A held-out scene of one subject.

    bare: a prompt that names neither its colour nor its place. changes: attribute → the prompt in which that attribute
    alone is another. render: a clip of the scene, uint8 [T, H, W, 3].
    """

    prompt: Prompt
    bare: str
    changes: Mapping[str, Prompt]
    render: Tensor


@dataclass(frozen=True)
class Bench:
    """A model, its judge, and the cases; case i is made with seed + i. pictures: name → captions and videos."""

    pipeline: Pipeline
    classifier: AttributeClassifier
    cases: Sequence[Case]
    stage: Callable[[str], Progress]
    seed: int = 0
    pictures: dict[str, list[tuple[str, Tensor]]] = field(default_factory=dict)

    def frames(self, seconds: float) -> int:
        """Return how many pixel frames last so long."""
        return round(seconds * self.pipeline.fps)

    def numbered(self, name: str) -> Iterator[tuple[int, Case]]:
        """Yield seed and case, one after the other, and show the progress of this stage."""
        progress = self.stage(name)
        for done, case in enumerate(self.cases, 1):
            yield self.seed + done - 1, case
            progress(done, len(self.cases))

    def show(self, picture: str, caption: str, video: Tensor, *, seed: int) -> None:
        """Put a video, uint8 [T, H, W, 3], into a picture if its case is one of the first."""
        if seed < self.seed + EXAMPLES:
            self.pictures.setdefault(picture, []).append((caption, video))

    def matches(self, clips: Sequence[Tensor], labels: Mapping[str, str | None]) -> list[dict[str, bool]]:
        """Return which attributes of clips of one size, uint8 [T, H, W, 3], are read as labelled."""
        seen = read(self.classifier, torch.stack(list(clips)))
        wanted = {name: int(label) for name, label in labels_of(self.classifier.vocabularies, [labels]).items()}
        counted = [name for name, label in wanted.items() if label != IGNORED]
        return [{name: int(seen[name][i]) == wanted[name] for name in counted} for i in range(len(clips))]


class Counts:
    """Columns of a table: how many clips are read as asked, still being counted."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self._right: dict[str, list[bool]] = defaultdict(list)

    def add(self, match: Mapping[str, bool], columns: Mapping[str, str] | None = None) -> None:
        """Count a clip's attributes, each in a column of its name, or in that which `columns` names."""
        for name, right in match.items():
            self._right[columns[name] if columns else name].append(right)

    def tallies(self) -> dict[str, Tally]:
        """Return a tally for each column."""
        return {name: Tally(correct=sum(right), count=len(right)) for name, right in self._right.items()}

    def total(self, *parts: str) -> Tally:
        """Return the tally of all columns together, or of those whose names contain one of `parts`."""
        return pooled(tally for name, tally in self.tallies().items() if not parts or any(p in name for p in parts))


def draw_cases(world: World, own: GenerationConfig, count: int) -> list[Case]:
    """Draw held-out scenes of one subject each, and what is asked of them."""
    drawn = (sample_scene(world, number, split="held-out") for number in itertools.count())
    cases = []
    for scene in itertools.islice((one for one in drawn if one.morph is None and one.second is None), count):
        frames = pixel_frames(own.clip_frames)
        clip = render([scene], frames=frames, height=own.height, width=own.width, fps=own.fps)
        changed = {name: _changed(scene, name, getattr(world, values)) for name, values in _CHANGED.items()}
        subject = SUBJECT_WORDS[scene.subject][0]
        article = "an" if subject[0] in "aeiou" else "a"
        cases.append(
            Case(
                prompt=_prompt(scene, scene, world),
                bare=f"{article} {subject} {motion_phrases(scene.subject, scene.motion)[0]}",
                changes={name: _prompt(one, scene, world) for name, one in changed.items()},
                render=to_bytes(clip[0]),
            )
        )
    return cases


def take(stream: Iterator[Tensor], frames: int) -> Tensor:
    """Return so many frames of a stream, and what its last chunk has beyond: uint8 [T, H, W, 3]."""
    parts: list[Tensor] = []
    while sum(map(len, parts)) < frames:
        parts.append(next(stream))
    return torch.cat(parts)


def _prompt(scene: Scene, phrased_as: Scene, world: World) -> Prompt:
    return Prompt(text=caption(scene, phrased_as.seed, language=world.language), labels=scene.readable())


def _changed(scene: Scene, attribute: str, values: tuple[str, ...]) -> Scene:
    """Return the scene with another value of one attribute, the same for the same scene."""
    others = [value for value in values if value != getattr(scene, attribute)]
    if not others:
        raise ValueError(f"{attribute}={values[0]!r} is the only one of this world: nothing to change it to")
    draw = numpy.random.default_rng([scene.seed, _DRAW]).integers(len(others))
    changed: dict[str, Any] = {attribute: others[draw]}
    return replace(scene, **changed)
