"""The batch half of a server, put together: uploads, jobs and their routes."""

from collections.abc import Callable
from pathlib import Path

from fastapi import FastAPI

from causvid.pipeline import Pipeline
from causvid.server import uploads, videos
from causvid.server.jobs import Jobs
from causvid.server.scheduler import Scheduler
from causvid.server.settings import ServerSettings
from causvid.server.uploads import Kind, Uploads


class Batch:
    """Uploads and jobs of one folder."""

    def __init__(
        self, pipeline: Pipeline, scheduler: Scheduler, settings: ServerSettings, *, address: str = ""
    ) -> None:
        """Open the folder. address: where this server answers others that share it; empty where none does.

        Raises:
            ValueError, OSError: if it cannot be used.
        """
        self.uploads = Uploads(settings.folder / "uploads", settings)
        self.jobs = Jobs(pipeline, scheduler, settings, address=address)

    def find(self, identifier: str, kind: Kind) -> Path:
        """Return the file of an upload, or of a finished job.

        Raises:
            LookupError: if there is neither. ValueError: if it is not finished, or of the other kind.
        """
        try:
            return self.uploads.path(identifier, kind)
        except LookupError:
            if kind == "video":
                return self.jobs.file(identifier)
            raise

    def sweep(self) -> None:
        """Delete what has expired."""
        self.uploads.sweep()
        self.jobs.sweep()


def install(app: FastAPI, pipeline: Pipeline, settings: ServerSettings, batch: Callable[[], Batch]) -> None:
    """Add the routes. batch: returns what they are about, once the server runs."""
    app.include_router(uploads.router(lambda: batch().uploads, settings))
    app.include_router(videos.router(pipeline, lambda: batch().jobs, lambda: batch().uploads, settings))
