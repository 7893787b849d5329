"""The messages of a live session, as both sides of its WebSocket see them.

Every message is a JSON object with a `type`. The first from the client is `create` or `attach`. A `chunk` is followed
by one binary message: its parts one after the other, as long as `sizes` says. Binary messages from the client are
pictures of its camera, JPEG, WebP or PNG.
"""

from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeInt, TypeAdapter, ValidationError, model_validator

from causvid.config import Settings, one_line
from causvid.engine.request import Adjustment, GenerationRequest, PromptChange

Format = Literal["h264", "mp4", "webp", "jpeg"]
"""How frames are sent.

h264: Annex B, a part for each frame, for `VideoDecoder` of WebCodecs; a chunk starts with a key frame. mp4: one
fragment, for `MediaSource`; where `init` is true, a part before it initialises the buffer. webp, jpeg: a part, which is
a picture, for each frame.
"""
State = Literal["queued", "playing", "paused", "ended", "closed"]
PROMPT_LENGTH = 2000
Prompt = Annotated[str, Field(max_length=PROMPT_LENGTH)]
Identifier = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
Reference = Annotated[int, Field(ge=0, lt=2**53)]


class Message(Settings):
    """A message of the client's. ref: any number, which the answer repeats."""

    ref: Reference | None = None


class SessionRequest(GenerationRequest):
    """What a client asks for: the engine's request, its pictures and videos by the identifiers of uploads or jobs.

    source: also "camera", whose pictures the client sends.
    """

    prompt: Prompt
    image: Identifier | None = None
    after: Identifier | None = None
    source: Identifier | None = None
    rewind_seconds: float = Field(default=0.0, ge=0, le=0, description="Left to the server: it can always rewind.")


class Create(Message):
    """Start a session, or wait in the queue for one."""

    type: Literal["create"]
    version: Literal[1] = 1
    format: Format = "h264"
    request: SessionRequest


class Attach(Message):
    """Take up a session where a connection was lost.

    position: how many frames this reader has; by default it starts with the newest.
    """

    type: Literal["attach"]
    version: Literal[1] = 1
    format: Format = "h264"
    session: Identifier
    position: NonNegativeInt | None = None


class SetPrompt(Message, PromptChange):
    """Change the prompt from the next chunk on."""

    type: Literal["prompt"]
    prompt: Prompt


class Adjust(Message, Adjustment):
    """Change the seed or the strength from the next chunk on."""

    type: Literal["adjust"]

    @model_validator(mode="after")
    def _check_any(self) -> "Adjust":
        if self.seed is None and self.strength is None:
            raise ValueError("give seed or strength")
        return self


class Pause(Message):
    """Stop making chunks until `resume`."""

    type: Literal["pause"]


class Resume(Message):
    """Go on after `pause`."""

    type: Literal["resume"]


class Rewind(Message):
    """Return to the newest point at or before frame `position` that is remembered; what came after it is dropped."""

    type: Literal["rewind"]
    position: NonNegativeInt


class Fork(Message):
    """Make a second session, paused, from the newest remembered point at or before frame `position`; default: now."""

    type: Literal["fork"]
    position: NonNegativeInt | None = None


class Close(Message):
    """End the session. Its film can still be exported until it expires."""

    type: Literal["close"]


class Ping(Message):
    """Ask for a `pong`."""

    type: Literal["ping"]


Command = SetPrompt | Adjust | Pause | Resume | Rewind | Fork | Close | Ping
ClientMessage = Annotated[Create | Attach | Command, Field(discriminator="type")]


class Mark(Settings):
    """A prompt and the frame it took effect at; `waiting` while it has not."""

    position: int
    prompt: str
    mode: str = "cut"
    waiting: bool = False


class Standing(Settings):
    """Where a session stands. position: the frame that the next chunk starts with.

    oldest: the frame to which it can be rewound at most. marks: the prompts so far.
    """

    state: State
    position: int
    oldest: int
    marks: tuple[Mark, ...]
    seed: int
    strength: float


class Opened(Standing):
    """The session, in answer to `create` and `attach`. codec: for `VideoDecoder` and `MediaSource`.

    chunk: its frames. live: it follows a camera, so it cannot be rewound, forked or kept.
    """

    type: Literal["opened"] = "opened"
    version: Literal[1] = 1
    ref: int | None = None
    session: str
    format: Format
    codec: str
    fps: float
    height: int
    width: int
    chunk: int
    live: bool


class Timings(Settings):
    """Seconds. waited: for the model. made: the chunk, by all that were generated together. encoded: its video.

    effect: from the command to the end of the first chunk under it, where this chunk is one.
    """

    waited: float
    made: float
    encoded: float
    effect: float | None = None


class Chunk(Settings):
    """The header of the binary message that follows: `frames` frames, of which the first has number `position`."""

    type: Literal["chunk"] = "chunk"
    position: int
    frames: int
    prompt: str
    sizes: tuple[int, ...]
    init: bool = False
    timings: Timings


class Changed(Standing):
    """Where the session stands now. ahead: how many wait before it in the queue."""

    type: Literal["changed"] = "changed"
    ahead: int | None = None


class Forked(Settings):
    """A second session, to be opened with `attach` from another connection."""

    type: Literal["forked"] = "forked"
    ref: int | None = None
    session: str
    position: int


class Done(Settings):
    """A command was taken. position: the frame from which it takes effect; after `rewind`, where the session is now."""

    type: Literal["done"] = "done"
    ref: int | None = None
    position: int


class Failed(Settings):
    """A command was refused, or the session ended with an error; the connection stays unless `code` is "closed"."""

    type: Literal["error"] = "error"
    ref: int | None = None
    code: Literal["invalid", "missing", "busy", "conflict", "forbidden", "failed", "closed"]
    message: str
    retry_after: int | None = None


class Pong(Settings):
    """The answer to `ping`."""

    type: Literal["pong"] = "pong"
    ref: int | None = None


ServerMessage = Annotated[
    Opened | Chunk | Changed | Forked | Done | Failed | Pong,
    Field(discriminator="type"),
]

_client: TypeAdapter[Any] = TypeAdapter(ClientMessage)
_server: TypeAdapter[Any] = TypeAdapter(ServerMessage)


def parse(text: str | bytes) -> Create | Attach | Command:
    """Read a client's message.

    Raises:
        ValueError: of one line, if it is not one.
    """
    try:
        message: Create | Attach | Command = _client.validate_json(text)
    except ValidationError as error:
        raise ValueError(one_line(error)) from None
    return message


def schema() -> dict[str, Any]:
    """Return the JSON schema of both sides' messages."""
    return {
        "title": "causvid live session",
        "version": 1,
        "client": _client.json_schema(),
        "server": _server.json_schema(mode="serialization"),
    }
