"""A live generation: what a user iterates over, steers, rewinds, forks and saves.

Letters: F latent frames, C H W a latent frame, T pixel frames.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from threading import RLock
from typing import Any

from torch import Tensor

from causvid.engine.request import Adjustment, GenerationRequest, PromptChange
from causvid.engine.session import Session, SessionState
from causvid.engine.step import Engine
from causvid.engine.storage import save_session


class Stream(Iterator[Tensor]):
    """A live generation: each `next` makes a chunk and returns its frames, uint8 `[T, H, W, 3]`, on the CPU.

    Any thread may use it: what changes it takes effect at the next chunk, and everything else waits for the chunk
    being generated.
    """

    def __init__(self, engine: Engine, session: Session, *, fps: float, model: Callable[[], str]) -> None:
        """Hold a session. model: returns the fingerprint that a saved session carries."""
        self.engine, self.session, self.fps, self.model = engine, session, fps, model
        self._states: deque[SessionState] = deque()
        self._lock = RLock()

    @property
    def request(self) -> GenerationRequest:
        """Return what the stream was asked for."""
        return self.session.request

    @property
    def frames(self) -> int:
        """Return how many pixel frames were returned."""
        return self.session.point.frames

    @property
    def length(self) -> int | None:
        """Return how many pixel frames there will be; None for a stream without end."""
        return self.session.geometry.length

    @property
    def latent(self) -> Tensor | None:
        """Return the newest chunk before decoding, `[1, F, C, H, W]`; None before the first."""
        return self.session.point.latest

    @property
    def changes(self) -> tuple[tuple[int, PromptChange], ...]:
        """Return every prompt with the number of pixel frames it came after, in order; those that wait come last."""
        # The thread that generates applies a change before it takes it off the queue: read in this order, and without
        # what is in both, none is missed and none is there twice.
        waiting = tuple(self.session.queue)
        point = self.session.point
        done = [(one.frames, one.change) for one in point.applied]
        known = {id(change) for _, change in done}
        new = (change for change in waiting if isinstance(change, PromptChange) and id(change) not in known)
        return (*done, *((point.frames, change) for change in new))

    @property
    def prompt(self) -> str:
        """The prompt of the next chunk; setting it is `set_prompt` with the default mode."""
        return self.changes[-1][1].prompt

    @prompt.setter
    def prompt(self, prompt: str) -> None:
        self.set_prompt(prompt)

    def set_prompt(self, prompt: str, mode: str = "recache", **options: Any) -> None:
        """Change the prompt from the next chunk on; returns at once. Modes and options are those of `PromptChange`.

        Raises:
            ValueError: if the mode or an option is unknown or out of range, or the prompt is empty or too long.
        """
        change = PromptChange.make(prompt=prompt, mode=mode, **options)
        self.engine.check(prompt)
        self.session.queue.append(change)

    def adjust(self, *, seed: int | None = None, strength: float | None = None) -> None:
        """Change the seed, or the strength of video-to-video, from the next chunk on.

        Raises:
            ValueError: if a value is out of range.
        """
        self.session.queue.append(Adjustment.make(seed=seed, strength=strength))

    def __next__(self) -> Tensor:
        frames = advance([self])[0]
        if frames is None:
            raise StopIteration
        return frames

    def snapshot(self) -> SessionState:
        """Return the state of the stream, as a value that later chunks do not change.

        Raises:
            ValueError: if the stream follows a live video.
        """
        with self._lock:
            return self.session.state()

    def restore(self, state: SessionState) -> None:
        """Return to a state of this stream, or of one of the same model and sizes; what could be rewound to is dropped.

        Raises:
            ValueError: if the state is of other sizes, or the stream follows a live video.
        """
        if not isinstance(state, SessionState):
            raise TypeError(f"state is of type {type(state).__name__}: expected what `snapshot` returned")
        with self._lock:
            self.session.restore(state)
            self._states.clear()

    def fork(self) -> "Stream":
        """Return a second stream with the same history and the same future, until one of them is changed.

        Raises:
            ValueError: if the stream follows a live video.
        """
        with self._lock:
            fork = Stream(self.engine, self.session.fork(), fps=self.fps, model=self.model)
            fork._states = deque(self._states)
            return fork

    def rewind(self, frames: int) -> int:
        """Go back at least so many pixel frames, to the end of a chunk; return how many.

        Raises:
            ValueError: if `frames` is below 1, or the stream does not remember a state that far back.
        """
        if isinstance(frames, bool) or not isinstance(frames, int) or frames < 1:
            raise ValueError(f"frames={frames!r} is not at least 1: expected a whole number")
        with self._lock:
            reached = [state for state in self._states if state.frames <= self.frames - frames]
            if not reached:
                oldest = self._states[0].frames if self._states else self.frames
                raise ValueError(f"frames={frames}: this stream can go back {self.frames - oldest} frames")
            before = self.frames
            self.session.restore(reached[-1])
            while self._states and self._states[-1].frames >= self.frames:
                self._states.pop()
            return before - self.frames

    def save(self, file: str | Path) -> None:
        """Write the session to a file, from which `Pipeline.resume` continues, in another process too.

        Raises:
            ValueError: if the stream follows a live video, or one that was handed over in memory.
            OSError: if the file cannot be written.
        """
        save_session(Path(file), self.snapshot(), model=self.model())

    def _remember(self, state: SessionState) -> None:
        """Keep the state before the newest chunk; drop those that are older than need be."""
        self._states.append(state)
        oldest = state.frames - round(self.request.rewind_seconds * self.fps)
        while len(self._states) > 1 and self._states[1].frames <= oldest:
            self._states.popleft()


def advance(streams: Sequence[Stream]) -> list[Tensor | None]:
    """Make the next chunk of each stream of one pipeline, those of equal shape as one batch; None for one at its end.

    The frames are uint8 `[T, H, W, 3]` on the CPU. Each video is what `next` of its stream alone would have made.
    """
    with ExitStack() as stack:
        for stream in sorted(streams, key=id):  # one order for all threads, or two of them could wait for each other
            stack.enter_context(stream._lock)
        states = [stream.session.state() if stream.request.rewind_seconds else None for stream in streams]
        chunks = streams[0].engine.advance([stream.session for stream in streams])
        for stream, state, frames in zip(streams, states, chunks, strict=True):
            if state is not None and frames is not None:
                stream._remember(state)
        return chunks
