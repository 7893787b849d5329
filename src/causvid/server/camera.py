"""Frames of a browser's camera, waiting to be translated."""

from collections import deque
from collections.abc import Iterator
from typing import Self

import numpy as np

from causvid.engine.source import Frame

MOST = 64
"""Frames that wait at most; older ones are dropped, so that the translation does not fall behind."""


class Camera(Iterator[Frame]):
    """What a session's source reads. It never waits: a chunk is only begun when its frames are there."""

    def __init__(self) -> None:
        self._frames: deque[Frame] = deque(maxlen=MOST)
        self._ended = False

    def add(self, frame: Frame) -> None:
        """Add a frame, uint8 `[H, W, 3]`; any thread."""
        self._frames.append(frame)

    def end(self) -> None:
        """Say that no more frames come."""
        self._ended = True

    def has(self, count: int) -> bool:
        """Tell whether a chunk of so many frames can be begun; drop what is older than twice that."""
        while len(self._frames) > 2 * count:
            self._frames.popleft()
        return len(self._frames) >= count or self._ended

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Frame:
        if not self._frames:
            raise StopIteration
        return np.asarray(self._frames.popleft())
