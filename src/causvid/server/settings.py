"""What a server allows: one frozen group, whose fields are the options of `causvid serve`."""

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from causvid.config import Settings

if TYPE_CHECKING:
    from causvid.media.credentials import Credentials


class ServerSettings(Settings):
    """Where a server listens, what it keeps, and what it lets one client ask for."""

    host: str = Field(default="127.0.0.1", description="Address to listen on; any but loopback needs a token.")
    port: Annotated[int, Field(ge=0, le=65535)] = Field(
        default=8000, description="Port to listen on; 0 takes a free one."
    )
    folder: Path = Field(default=Path("causvid-server"), description="Folder that keeps jobs, sessions and uploads.")
    token: str | None = Field(default=None, description="Secret that every request must carry as a bearer token.")
    origins: tuple[str, ...] = Field(
        default=(), description="Web origins, besides the server's own, whose pages may use it."
    )
    sessions: PositiveInt | None = Field(
        default=None, description="Live sessions at once. Default: as many as the measured speed and memory allow."
    )
    batch: PositiveInt | None = Field(
        default=None,
        description="Chunks made at once, at most; 1 makes equal bits whoever plays. Default: as measured.",
    )
    save_every: PositiveInt = Field(
        default=4, description="Chunks after which a session's state is written; those after it are made again."
    )
    sessions_per_client: PositiveInt = Field(default=32, description="Live sessions of one address at once.")
    queue: Annotated[int, Field(ge=0)] = Field(default=16, description="Sessions that may wait for a place.")
    jobs: PositiveInt = Field(default=2, description="Batch jobs made at once; the others wait.")
    jobs_waiting: PositiveInt = Field(default=256, description="Batch jobs that may wait.")
    seconds: PositiveFloat = Field(default=60.0, description="Longest video of a batch job, in seconds.")
    session_seconds: PositiveFloat = Field(default=3600.0, description="Longest film of a live session, in seconds.")
    keep_seconds: PositiveFloat = Field(
        default=86_400.0, description="Films, videos and uploads are deleted after these."
    )
    upload_bytes: PositiveInt = Field(default=64 * 2**20, description="Largest upload.")
    upload_pixels: PositiveInt = Field(default=4096 * 4096, description="Largest picture or video frame, in pixels.")
    upload_seconds: PositiveFloat = Field(default=120.0, description="Longest video that may be uploaded, in seconds.")
    rewind_bytes: PositiveInt = Field(default=256 * 2**20, description="Memory of one session's points to rewind to.")
    c2pa_certificate: Path | None = Field(
        default=None, description="Chain of certificates (PEM) that videos are signed with (C2PA)."
    )
    c2pa_key: Path | None = Field(default=None, description="Private key (PEM) of the first of them.")

    @model_validator(mode="after")
    def _check_pair(self) -> Self:
        if (self.c2pa_certificate is None) != (self.c2pa_key is None):
            raise ValueError("c2pa_certificate and c2pa_key sign together: give both")
        return self

    @cached_property
    def credentials(self) -> "Credentials | None":
        """What videos are signed with.

        Raises:
            ValueError: if certificate and key cannot sign.
        """
        if self.c2pa_certificate is None or self.c2pa_key is None:
            return None
        from causvid.media.credentials import Credentials

        return Credentials.load(self.c2pa_certificate, self.c2pa_key)
