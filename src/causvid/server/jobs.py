"""Batch jobs: videos made in the background, each by a thread that asks the scheduler for chunks and writes them.

A job is a row of the store and, once finished, a file. What a crash cuts off is made again from its seed.
"""

import logging
import math
import secrets
import shutil
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Literal

from causvid.config import Settings
from causvid.engine.request import GenerationRequest
from causvid.media import VideoWriter
from causvid.pipeline import Pipeline
from causvid.server.errors import Busy, Conflict
from causvid.server.lease import Lease, holder
from causvid.server.rendering import Cancelled, Running, chunks_of
from causvid.server.scheduler import Scheduler
from causvid.server.settings import ServerSettings
from causvid.server.store import Job, Store, new_identifier
from causvid.server.uploads import keep
from causvid.timeline import provenance

log = logging.getLogger("causvid.server")
UNMEASURED = 10
"""Seconds after which it is worth asking again, before anything was measured."""
POLL = 1.0
"""Seconds between two looks for jobs of other servers, where several share the table."""
SERVERS = "servers"
"""Folder of a file for each server that shares the jobs, locked while it lives."""
FAULT = "the server failed; its log says why"
Use = Literal["image", "source", "after"]


class Order(Settings):
    """What a job makes. request: names no file; use: what the job's own copy of one is to it."""

    request: GenerationRequest
    use: Use | None = None


class Jobs:
    """All jobs of a server. Any thread may use it."""

    def __init__(
        self, pipeline: Pipeline, scheduler: Scheduler, settings: ServerSettings, *, address: str = ""
    ) -> None:
        """Open the jobs in the server's folder; `start` begins to make them.

        address: where this server answers others that share the folder; empty where none does.

        Raises:
            ValueError, OSError: if the store cannot be used.
        """
        self.model = str(pipeline.bundle.provenance.get("preset") or "causvid")
        self.folder = settings.folder / "videos"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.shared = bool(address)
        self.store = Store(settings.folder / "jobs.sqlite", shared=self.shared)
        self._owners = settings.folder / SERVERS
        self._owners.mkdir(exist_ok=True)
        self.owner = secrets.token_hex(8)
        self._lease = Lease.take(self._owners / self.owner, address)
        self._pipeline, self._scheduler, self._settings = pipeline, scheduler, settings
        self._changed = threading.Condition()
        self._running: dict[str, Running] = {}
        self._stopping = False
        self._pace: float | None = None  # seconds a frame, of one job beside the others
        self._threads = [
            threading.Thread(target=self._serve, name=f"job-{number}", daemon=True) for number in range(settings.jobs)
        ]

    def start(self) -> None:
        """Take up what was left by a server before, then what comes."""
        if not self.shared:
            self.store.requeue()
            known = self.store.identifiers()
            for file in self.folder.iterdir():
                if file.is_dir():  # a video half-written
                    shutil.rmtree(file)
                elif file.stem not in known:
                    file.unlink()
        for thread in self._threads:
            thread.start()

    def adopt(self) -> None:
        """Let the jobs of servers that died wait again."""
        for owner in self.store.owners():
            if holder(self._owners / owner) is None:
                log.warning("a server died: its jobs are made again")
                self.store.requeue(owner)
                (self._owners / owner).unlink(missing_ok=True)

    def stop(self) -> None:
        """Leave off; jobs in progress start again with the next server. Call it before the scheduler stops."""
        with self._changed:
            self._stopping = True
            for running in self._running.values():
                running.cancel()
            self._changed.notify_all()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()
        if self.shared:
            self.store.requeue(self.owner)
        self._lease.release()
        (self._owners / self.owner).unlink(missing_ok=True)
        self.store.close()

    def size(self, request: GenerationRequest) -> tuple[int, int]:
        """Return height and width of a request's video."""
        own = self._pipeline.generation
        return request.height or own.height, request.width or own.width

    def submit(
        self,
        request: GenerationRequest,
        *,
        seconds: float,
        use: Use | None = None,
        file: Path | None = None,
        origin: str | None = None,
    ) -> Job:
        """Add a job. seconds: of the whole file. file: what it starts from, of which it keeps a copy.

        Raises:
            ValueError: if a value cannot be used. Busy: if too many jobs wait.
        """
        self._pipeline.check(request)
        height, width = self.size(request)
        job = Job(
            new_identifier(),
            "queued",
            Order(request=request, use=use).model_dump_json(),
            prompt=request.prompt,
            model=self.model,
            size=f"{width}x{height}",
            seconds=stated(seconds),
            origin=origin,
        )
        with self._changed:
            if self.store.count("queued") >= self._settings.jobs_waiting:
                raise Busy(f"{self._settings.jobs_waiting} videos wait, which is the most", self._retry_after())
            if file is not None:
                keep(file, self._input(job.id))
            self.store.add(job)
            self._changed.notify()
        return job

    def delete(self, identifier: str) -> None:
        """Forget a job and its files; one in progress is left off.

        Raises:
            LookupError: if there is none.
        """
        with self._changed:
            self.store.get(identifier)
            self.store.remove(identifier)
            running = self._running.get(identifier)
            if running is not None:
                running.cancel()
            self._unlink(identifier)

    def sweep(self) -> None:
        """Delete what has expired."""
        for identifier in self.store.expired(time.time()):
            with suppress(LookupError):  # deleted by its client in this moment
                self.delete(identifier)

    def file(self, identifier: str) -> Path:
        """Return the video of a finished job.

        Raises:
            LookupError: if there is no such job. Conflict: if it is not finished.
        """
        job = self.store.get(identifier)
        if job.status != "completed":
            raise Conflict(f"video {identifier} is not completed: it is {job.status.replace('_', ' ')}")
        return self._target(identifier)

    def progress(self, job: Job) -> int:
        """Return how much of a job is done, in percent."""
        running = self._running.get(job.id)
        if job.status == "completed":
            return 100
        return job.progress if running is None else running.percent

    def poll_after(self, job: Job) -> int:
        """Return the milliseconds after which it is worth asking for a job again."""
        running = self._running.get(job.id)
        left = None if running is None else self._left(running)
        return 1000 if left is None else round(1000 * min(2.0, max(0.2, left / 2)))

    @property
    def waiting(self) -> int:
        """Return how many jobs wait."""
        return self.store.count("queued")

    @property
    def running(self) -> int:
        """Return how many jobs are in progress."""
        return len(self._running)

    def _serve(self) -> None:
        """Make one job after the other."""
        while (taken := self._take()) is not None:
            job, running = taken
            error, frames = None, 0
            try:
                frames = self._make(job, running)
            except Cancelled:
                log.info("job %s was left off", job.id)
            except (ValueError, OSError) as problem:
                error = str(problem).replace(str(self._input(job.id)), "its input").replace(f"{self.folder}/", "")
            except Exception:
                log.exception("job %s failed", job.id)
                error = FAULT
            try:
                self._finish(job, running, frames, error)
            except Exception:
                log.exception("job %s could not be noted", job.id)

    def _take(self) -> tuple[Job, Running] | None:
        """Wait for a job; None when the server stops."""
        with self._changed:
            while not self._stopping:
                if self.shared:
                    self.adopt()
                job = self.store.take(self.owner)
                if job is not None:
                    running = Running(max(1, round(float(job.seconds) * self._pipeline.fps)))
                    self._running[job.id] = running
                    return job, running
                self._changed.wait(POLL if self.shared else None)
        return None

    def _finish(self, job: Job, running: Running, frames: int, error: str | None) -> None:
        with self._changed:
            del self._running[job.id]
            if running.cancelled:
                if not self._stopping:
                    self._unlink(job.id)
                return
            now = int(time.time())
            ended = {"completed_at": now, "expires_at": now + math.ceil(self._settings.keep_seconds)}
            if error is None:
                seconds = stated(frames / self._pipeline.fps)
                there = self.store.update(job.id, status="completed", seconds=seconds, **ended)
            else:
                there = self.store.update(job.id, status="failed", error=error, expires_at=ended["expires_at"])
            if there:
                self._input(job.id).unlink(missing_ok=True)
            else:  # deleted through another server
                self._unlink(job.id)

    def _make(self, job: Job, running: Running) -> int:
        """Make a job's file; return how many frames it has."""
        if job.model != self.model:
            raise ValueError(f"it was asked of model {job.model}: this server has {self.model} now")
        order = Order.model_validate_json(job.request)
        request = order.request
        if order.use is not None:
            request = request.model_copy(update={order.use: str(self._input(job.id))})
        height, width = self.size(request)
        size = {"height": height, "width": width}
        tags = _tags(job, order)
        with VideoWriter(self._target(job.id), fps=self._pipeline.fps, **size) as writer:
            writer.describe(tags)
            for frames in chunks_of(self._pipeline, self._scheduler, request, running, settings=self._settings):
                if running.cancelled:
                    raise Cancelled
                writer.write(frames)
                running.frames = writer.frames
                self._measure(running)
                if self.shared and not self.store.update(job.id, progress=running.percent):
                    raise Cancelled  # another server was asked to delete it
        if self._settings.credentials is not None:
            self._settings.credentials.sign(self._target(job.id), tags)
        return writer.frames

    def _measure(self, running: Running) -> None:
        self._pace = (time.monotonic() - running.began) / running.frames

    def _left(self, running: Running) -> float | None:
        """Return how many seconds a job will take yet."""
        return None if self._pace is None else max(0, running.expected - running.frames) * self._pace

    def _retry_after(self) -> int:
        """Return the seconds after which the next job is finished, so that one of those that wait begins."""
        left = [seconds for running in self._running.values() if (seconds := self._left(running)) is not None]
        return math.ceil(min(left)) + 1 if left else UNMEASURED

    def _target(self, identifier: str) -> Path:
        return self.folder / f"{identifier}.mp4"

    def _input(self, identifier: str) -> Path:
        return self.folder / f"{identifier}.input"

    def _unlink(self, identifier: str) -> None:
        for file in self.folder.glob(f"{identifier}.*"):
            file.unlink(missing_ok=True)


def stated(seconds: float) -> str:
    """Write seconds as OpenAI's objects have them."""
    return f"{round(seconds, 3):g}"


def _tags(job: Job, order: Order) -> dict[str, str]:
    """Say in a video file how it was made."""
    asked = order.request.model_dump(mode="json", exclude_defaults=True) | {"seed": order.request.seed}
    return provenance(job.prompt, {"model": job.model, "use": order.use, "origin": job.origin} | asked)
