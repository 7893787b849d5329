"""A live session: a stream that is generated as it is watched, steered while it plays, and kept on disk.

Three threads share it. The model's thread (`Scheduler`) makes chunks and carries out commands; the encoder's thread
appends to the film and saves the state; the event loop's readers send what the film has. What the first two change is
read by the others, never written.
"""

import logging
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from causvid.engine.request import Change, PromptChange
from causvid.engine.session import SessionState
from causvid.engine.storage import save_session
from causvid.pipeline import Pipeline
from causvid.server.camera import Camera
from causvid.server.film import Film
from causvid.server.journal import Journal
from causvid.server.lease import Lease
from causvid.server.points import Points
from causvid.server.protocol import State, Timings
from causvid.server.scheduler import NEVER, Scheduler, Task, Turn
from causvid.server.settings import ServerSettings
from causvid.server.wire import encode_h264
from causvid.stream import Stream

log = logging.getLogger("causvid.server")
LEAD = 0.1
PACES = 1.4
"""The next chunk is begun so many seconds, and so many times what one takes, before the last frame is shown."""
BEHIND = 2
"""Chunks that the quickest reader may still have to fetch while more are made."""


@dataclass(frozen=True)
class Shared:
    """What all sessions share. encoder: an executor of one thread, so that chunks stay in order."""

    pipeline: Pipeline
    scheduler: Scheduler
    encoder: Executor
    settings: ServerSettings
    announce: Callable[["LiveSession"], None]
    delivered: Callable[["LiveSession", Timings], None]


class LiveSession:
    """One stream and its film. Unless said otherwise, methods belong to the model's thread."""

    def __init__(
        self, identifier: str, shared: Shared, stream: Stream, journal: Journal, *, film: Film, camera: Camera | None
    ) -> None:
        self.identifier, self.shared, self.stream = identifier, shared, stream
        self.journal, self.film, self.camera = journal, film, camera
        self.state: State = "playing"
        self.error: str | None = None
        self.lease: Lease | None = None
        self.points = Points(shared.settings.rewind_bytes)
        self.timings: dict[int, Timings] = {}
        self.fetched = 0  # frames, by the quickest reader; the event loop counts them, and the readers
        self.readers = 0
        self.again = stream.frames  # what is made again up to this frame was seen before, and is in no need of a pace
        self.expected = False  # a reader is, for whom that and a chunk more are made before it comes
        self.left = time.monotonic()  # when the last reader left
        self.rewinds = 0
        self.task = Task(stream, self._due, self._made, self._ended)
        self._replay = deque(journal.changes(stream.frames))
        self._shown_until = 0.0
        self._pace = 0.0
        self._asked: float | None = None
        self._unsaved = 0
        self._lost = False  # a chunk could not be written: what follows it is not, either
        if self._is_over():
            self.state = "ended"
        self._remember()

    # What readers see; any thread.

    @property
    def pixel_size(self) -> tuple[int, int]:
        """Return height and width of a frame."""
        factor = self.shared.pipeline.bundle.autoencoder.spatial_factor
        _, height, width = self.stream.session.geometry.shape
        return height * factor, width * factor

    @property
    def oldest(self) -> int:
        """Return the frame to which the session can be rewound at most."""
        return self.stream.frames if self.points.oldest is None else self.points.oldest

    # Turns.

    def _due(self) -> float:
        frames = self.stream.frames
        if self.state != "playing" or not (self.readers or (self.expected and frames <= self.again)):
            return NEVER
        source = self.stream.session.source
        if self.camera is not None and source is not None and not self.camera.has(source.wanted):
            return NEVER
        if frames - self.fetched > BEHIND * self.shared.pipeline.chunk_frames:
            return NEVER
        if frames < self.again:
            return 0.0
        return self._shown_until - LEAD - PACES * self._pace - time.monotonic()

    def _made(self, frames: Tensor, turn: Turn) -> None:
        now = time.monotonic()
        self._pace = turn.made if self._pace == 0 else 0.8 * self._pace + 0.2 * turn.made
        if self.stream.frames > self.again:
            self._shown_until = max(now, self._shown_until) + len(frames) / self.stream.fps
        point, latents = self.stream.session.point, self.stream.latent
        assert latents is not None
        applied = point.applied[-1]
        effect = None
        if self._asked is not None and not self.stream.session.queue:
            effect, self._asked = now - self._asked, None
        self._replay_due()
        state = self._remember()
        if self._is_over():
            self._stop("ended")
            self.shared.scheduler.remove(self.task)
        self._unsaved += 1
        if self._unsaved < self.shared.settings.save_every and applied.frames != self.stream.frames - len(frames):
            state = None  # not now
        if state is not None:
            self._unsaved = 0
        timings = Timings(waited=turn.waited, made=turn.made, encoded=0.0, effect=effect)
        self.shared.encoder.submit(self._encode, frames.numpy(), latents, applied.change.prompt, timings, state)

    def _is_over(self) -> bool:
        return self.stream.frames >= self.shared.settings.session_seconds * self.stream.fps

    def _ended(self, error: Exception | None) -> None:
        if error is not None:
            self.error = str(error) if isinstance(error, ValueError | OSError) else "the chunk could not be made"
        self._stop("ended")

    def _stop(self, state: State) -> None:
        self.state = state
        self.shared.announce(self)

    def _remember(self) -> SessionState | None:
        """Keep the state between two chunks; changes that wait belong to the journal."""
        if self.camera is not None:
            return None
        state = replace(self.stream.snapshot(), queue=())
        self.points.add(state)
        return state

    def _replay_due(self) -> None:
        while self._replay and self._replay[0][0] <= self.stream.frames:
            self.stream.session.queue.append(self._replay.popleft()[1])

    # The encoder's thread.

    def _encode(
        self,
        frames: "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]",
        latents: Tensor,
        prompt: str,
        timings: Timings,
        state: SessionState | None,
    ) -> None:
        if self._lost:
            return
        try:
            began = time.monotonic()
            units = encode_h264(frames, fps=self.stream.fps)
            piece = self.film.append(units, latents, prompt=prompt)
            took = time.monotonic() - began
            effect = None if timings.effect is None else timings.effect + took
            timings = timings.model_copy(update={"encoded": took, "effect": effect})
            self.timings = {**dict(list(self.timings.items())[-8:]), piece.position: timings}
            self.shared.delivered(self, timings)
            if state is not None:
                self.save(state)
        except Exception as error:
            self._lost = True
            if isinstance(error, OSError):
                log.warning("session %s cannot be kept: %s", self.identifier, error)
                self.error = f"the film cannot be written: {error}".replace(f"{self.journal.folder}/", "")
            else:
                log.exception("session %s cannot be kept", self.identifier)
                self.error = "it cannot be encoded"
            self.state = "ended"
        self.shared.announce(self)

    def save(self, state: SessionState) -> None:
        """Write a state, from which a restart continues."""
        save_session(self.journal.state, state, model=self.shared.pipeline.fingerprint)

    # Commands.

    def start(self) -> None:
        """Take turns from now on."""
        self._replay_due()
        self.shared.scheduler.add(self.task)

    def change(self, change: Change) -> int:
        """Queue a change; return the frame from which it takes effect.

        Raises:
            ValueError: if it cannot be used.
        """
        self._check_open()
        if isinstance(change, PromptChange):
            self.stream.engine.check(change.prompt)
        elif change.strength is not None and self.stream.session.source is None:
            raise ValueError("strength: this session does not follow a video")
        self.journal.add(self.stream.frames, change)
        self.stream.session.queue.append(change)
        self._asked = self._asked or time.monotonic()
        self.shared.announce(self)
        return self.stream.frames

    def pause(self, paused: bool) -> int:
        """Pause or resume; return the next frame."""
        self._check_open()
        self.state = "paused" if paused else "playing"
        self._shown_until = 0.0
        self.shared.announce(self)
        return self.stream.frames

    def rewind(self, position: int) -> int:
        """Return to the newest point at or before a frame; what came after is dropped. Return where it is now.

        Raises:
            ValueError: if no such point is remembered.
        """
        state = self._point(position)
        ended = self.state == "ended"
        self._complete_film()
        self.save(state)
        self.journal.rewind(state.frames)
        self._replay.clear()
        self.stream.restore(state)
        self.points.drop_after(state.frames)
        self.film.truncate(state.frames)
        self._unsaved, self._shown_until, self.again = 0, 0.0, state.frames
        self.rewinds += 1
        self.timings = {}
        self._lost = False
        if ended:
            self.state, self.error = "playing", None
            self.shared.scheduler.add(self.task)
        self.shared.announce(self)
        return state.frames

    def fork(self, position: int | None, identifier: str, journal: Journal) -> "LiveSession":
        """Make a paused session that goes on from a point, by default from here.

        Raises:
            ValueError: if no such point is remembered.
        """
        state = self._point(self.stream.frames if position is None else position)
        self._complete_film()
        stream = self.stream.fork()
        stream.restore(state)
        film = self.film.fork(journal.folder, state.frames)
        fork = LiveSession(identifier, self.shared, stream, journal, film=film, camera=None)
        fork.save(state)
        if position is None:
            for change in self.stream.session.queue:
                fork.change(change)
        fork.state = "paused"
        return fork

    def close(self) -> None:
        """End the session for good; its film stays."""
        if self.state != "closed":
            self._complete_film()
            self.record()
            self.journal.close()  # where the disk is full, the session stays as it is
            self.shared.scheduler.remove(self.task)
            self._stop("closed")
            self._release()

    def suspend(self) -> None:
        """Write the session to disk and take no more turns; it can be opened again."""
        self.shared.scheduler.remove(self.task)
        self._complete_film()
        try:
            if self.camera is None and self.state != "closed" and not self._lost:
                self.save(replace(self.stream.snapshot(), queue=()))
                self.record()
        finally:
            self._release()

    def record(self) -> None:
        """Write the timeline, where the session can be said as one."""
        try:
            timeline = self.shared.pipeline.record(self.stream)
        except ValueError:
            timeline = None
        self.journal.write_timeline(timeline)

    def _release(self) -> None:
        """Let another server that shares the folder open the session."""
        if self.lease is not None:
            self.lease.release()

    def _complete_film(self) -> None:
        """Wait until the encoder's thread has done what it was given."""
        self.shared.encoder.submit(lambda: None).result()

    def _check_open(self) -> None:
        if self.state == "ended":
            raise ValueError("the session has ended")
        if self.state == "closed":
            raise ValueError("the session is closed")

    def _point(self, position: int) -> SessionState:
        if self.state == "closed":
            raise ValueError("the session is closed")
        if self.camera is not None:
            raise ValueError("a session that follows a camera cannot be rewound or forked, since it plays once")
        state = self.points.before(position)
        if state is None:
            raise ValueError(f"position={position}: the session can go back to frame {self.oldest}")
        return state
