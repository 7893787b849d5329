"""The points of a session to which it can be rewound, and from which it can be forked: states, within a budget."""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor

from causvid.engine.session import SessionState


class Points:
    """States by frame. budget: bytes; beyond it the oldest go, those at which the prompt changed last."""

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._states: dict[int, SessionState] = {}
        self._sizes: dict[int, int] = {}

    @property
    def oldest(self) -> int | None:
        """Return the frame of the oldest point."""
        return min(self._states, default=None)

    @property
    def size(self) -> int:
        """Return the bytes of all points."""
        return sum(self._sizes.values())

    def add(self, state: SessionState) -> None:
        """Remember a state, and forget others where the budget asks for it."""
        self._states[state.frames] = state
        self._sizes[state.frames] = sum(tensor.nbytes for tensor in {id(t): t for t in _tensors(state)}.values())
        marks = {applied.frames for applied in state.point.applied}
        while self.size > self._budget and len(self._states) > 1:
            plain = [frame for frame in self._states if frame not in marks]
            self._forget(min(plain[:-1] or self._states))

    def before(self, position: int) -> SessionState | None:
        """Return the newest state at or before a frame."""
        frames = [frame for frame in self._states if frame <= position]
        return self._states[max(frames)] if frames else None

    def drop_after(self, position: int) -> None:
        """Forget what is after a frame."""
        for frame in [frame for frame in self._states if frame > position]:
            self._forget(frame)

    def _forget(self, frame: int) -> None:
        del self._states[frame], self._sizes[frame]


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif is_dataclass(value):
        for part in fields(value):
            yield from _tensors(getattr(value, part.name))
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _tensors(part)
