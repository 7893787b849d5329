"""What a server allows: one frozen group, whose fields are the options of `causvid serve`."""

from pathlib import Path
from typing import Annotated

from pydantic import Field, PositiveFloat, PositiveInt

from causvid.config import Settings


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
