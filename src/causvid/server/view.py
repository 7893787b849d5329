"""What readers are told about a live session: where it stands. Any thread may ask."""

from causvid.engine.request import PromptChange
from causvid.server.live import LiveSession
from causvid.server.protocol import Changed, Format, Mark, Opened, Standing
from causvid.server.wire import codec_name


def marks(session: LiveSession) -> tuple[Mark, ...]:
    """Return the prompts so far, those that wait included."""
    waiting = sum(isinstance(change, PromptChange) for change in tuple(session.stream.session.queue))
    changes = session.stream.changes
    return tuple(
        Mark(position=frames, prompt=change.prompt, mode=change.mode, waiting=number >= len(changes) - waiting)
        for number, (frames, change) in enumerate(changes)
    )


def changed(session: LiveSession) -> Changed:
    """Return where a session stands."""
    point = session.stream.session.point
    return Changed(
        state=session.state,
        position=session.stream.frames,
        oldest=session.oldest,
        marks=marks(session),
        seed=point.seed,
        strength=point.strength,
    )


def opened(session: LiveSession, form: Format, ref: int | None) -> Opened:
    """Return the first message to a reader."""
    now = changed(session)
    height, width = session.pixel_size
    return Opened(
        **{name: getattr(now, name) for name in Standing.model_fields},
        ref=ref,
        session=session.identifier,
        format=form,
        codec=codec_name(height, width, fps=session.stream.fps),
        fps=session.stream.fps,
        height=height,
        width=width,
        chunk=session.shared.pipeline.chunk_frames,
        live=session.camera is not None,
    )
