"""The chunks of a batch job: a thread asks the scheduler for them, as a task beside the sessions, and writes them."""

import math
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from queue import Queue

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from causvid.engine.request import GenerationRequest
from causvid.media import read_video
from causvid.models.autoencoder import pixel_frames
from causvid.pipeline import Pipeline
from causvid.server.scheduler import NEVER, Scheduler, Task
from causvid.server.settings import ServerSettings

READY = 2
"""Chunks of a job that may wait to be written."""


class Cancelled(Exception):
    """The job was deleted, or the server stops."""


@dataclass
class Running:
    """A job in progress: chunks on their way to its file, and how far it has come."""

    expected: int
    frames: int = 0
    cancelled: bool = False
    began: float = field(default_factory=time.monotonic)
    chunks: "Queue[Tensor | Exception | None]" = field(default_factory=Queue)

    @property
    def percent(self) -> int:
        """Return how much is done; 100 only when the file is there."""
        return min(99, 100 * self.frames // self.expected)

    def cancel(self) -> None:
        """Let the job's thread leave off."""
        self.cancelled = True
        self.chunks.put(Cancelled())


def chunks_of(
    pipeline: Pipeline, scheduler: Scheduler, request: GenerationRequest, running: Running, *, settings: ServerSettings
) -> Iterator[ArrayLike]:
    """Yield the frames of the video that is continued, if one is, and the chunks as they are made."""
    if request.after is not None:
        own, fit = pipeline.generation, request.fit
        height, width = request.height or own.height, request.width or own.width
        given = read_video(request.after, height=height, width=width, fps=own.fps, fit=fit)
        # Read here, not by the stream: nobody else waits for it, and a header that lies cannot fill the disk.
        end: deque[NDArray[np.uint8]] = deque(maxlen=pixel_frames(own.clip_frames))
        for frame in islice(given, math.ceil(settings.upload_seconds * own.fps)):
            end.append(frame)
            yield frame[None]
        request = request.model_copy(update={"after": list(end)})
    stream = scheduler.call(lambda: pipeline.stream(request)).result()
    task = Task(
        stream,
        due=lambda: 0.0 if running.chunks.qsize() < READY else NEVER,
        made=lambda frames, _: running.chunks.put(frames),
        ended=running.chunks.put,
    )
    scheduler.add(task)
    try:
        while (item := running.chunks.get()) is not None:
            if isinstance(item, Exception):
                raise item
            scheduler.wake()
            yield item.numpy()
    finally:
        scheduler.remove(task)
