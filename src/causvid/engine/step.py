"""The one loop: `Engine.advance` makes the next chunk of any number of sessions.

Letters: B batch, F latent frames, C H W a latent frame, M text tokens, T pixel frames.

Text-to-video, image-to-video, extension, video-to-video and a prompt that changes are one loop: what differs is the
history a session starts from, the latents a chunk starts from, and the text it is generated under. Sessions of equal
shape are generated as one batch, wherever each of them stands.
"""

import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor

from causvid.engine.history import prefill
from causvid.engine.request import Change, PromptChange
from causvid.engine.rollout import commit_chunk, next_chunk
from causvid.engine.session import Applied, Blend, Session
from causvid.engine.source import SourceChunk, adapted, levels_below
from causvid.media import to_bytes
from causvid.models.autoencoder import Autoencoder
from causvid.models.transformer import TextKeys, Transformer
from causvid.nn.cache import KVCache
from causvid.nn.chunks import chunk_sizes

T = TypeVar("T")


@dataclass(frozen=True)
class Draft:
    """A session whose next chunk is about to be made: its source, if it follows one, and its noise levels."""

    session: Session
    source: SourceChunk | None
    sigmas: tuple[float, ...]

    @property
    def size(self) -> int:
        """Return the latent frames of the chunk."""
        geometry = self.session.geometry
        return geometry.first if self.session.point.history.frames == 0 else geometry.chunk


class Engine:
    """A model that advances sessions.

    embed: turns a prompt into its embedding `[1, M, D]`, on the model's device. check: raises a `ValueError` for a
    prompt that cannot be embedded, without the work of it.
    """

    def __init__(
        self,
        transformer: Transformer,
        autoencoder: Autoencoder,
        *,
        embed: Callable[[str], Tensor],
        check: Callable[[str], None],
    ) -> None:
        self.transformer, self.autoencoder = transformer, autoencoder
        self.embed, self.check = embed, check

    @torch.inference_mode()
    def advance(self, sessions: Sequence[Session]) -> list[Tensor | None]:
        """Make the next chunk of every session: its frames, uint8 `[T, H, W, 3]` on the CPU, or None at its end.

        The first chunk has 1 + 4 (first - 1) frames, every other 4 chunk; the last is cut to the length asked for.
        Changes that wait in a session's queue take effect first.

        Raises:
            ValueError, OSError: if the source of a session cannot be read; the others then lose nothing.
        """
        for session in sessions:  # all, before any moves on
            if session.source is not None and not _has_ended(session):
                session.source.peek()
        drafts = {id(session): self._draft(session) for session in sessions}
        live = [draft for draft in drafts.values() if draft is not None]
        self._settle([draft.session for draft in live])
        for draft in live:
            self._step_blend(draft.session)
        latents = self._denoise([draft for draft in live if draft.session.point.given is None])
        shown = {
            id(draft.session): self._show(draft, latents.get(id(draft.session), draft.session.point.given))
            for draft in live
        }
        return [shown.get(id(session)) for session in sessions]

    def _draft(self, session: Session) -> Draft | None:
        """Take the session's next piece of source and its queued changes; None if it has ended."""
        if _has_ended(session):
            return None
        geometry = session.geometry
        source = None if session.source is None else session.source.next()
        if session.source is not None and source is None:
            return None
        self.apply(session)
        sigmas = geometry.sigmas
        if source is not None:
            strength = session.point.strength
            sigmas = levels_below(adapted(strength, source.motion) if geometry.adapt else strength, sigmas)
        return Draft(session, source, sigmas)

    @torch.inference_mode()
    def apply(self, session: Session) -> None:
        """Let the changes in a session's queue take effect, in order; `advance` does so before each chunk.

        One that another thread appends meanwhile waits for the next chunk.
        """
        for _ in range(len(session.queue)):
            self._apply(session, session.queue[0])
            session.queue.popleft()

    def _apply(self, session: Session, change: Change) -> None:
        point = session.point
        if not isinstance(change, PromptChange):
            if change.seed is not None:
                session.generator.manual_seed(change.seed)
                point = replace(point, seed=change.seed)
            session.point = point if change.strength is None else replace(point, strength=change.strength)
            return
        end = self.embed(change.prompt)
        self._settle([session])
        former = session.point.former
        if change.mode == "cut" or not change.dissolve:
            former = None
        elif change.mode == "recache":
            former = self._former(session)
        point = session.point
        applied = (*point.applied, Applied(point.frames, change))
        point = replace(point, applied=applied, blend=None, former=former)
        if change.mode == "blend":
            session.point = replace(point, blend=Blend(point.embedding, end, change.chunks))
            return
        session.point = replace(point, embedding=end, text=self.transformer.encode_text(end))
        self._evict(session, recompute=change.mode == "recache")

    def _settle(self, sessions: Iterable[Session]) -> None:
        """Commit each session's newest chunk under the text it was made with."""
        waiting = []
        for session in sessions:
            if session.point.pending is not None and session.geometry.policy == "recompute":
                self._prefill(session)
                session.point = replace(session.point, pending=None)
            elif session.point.pending is not None:
                waiting.append(session)
        for group in _together(waiting, lambda s: (_pending(s).shape, _key(s))):
            cache, text = _joined(group), self._text(group)
            commit_chunk(self.transformer, torch.cat([_pending(session) for session in group]), text, cache)
            _split(group, cache)
            for session in group:
                session.point = replace(session.point, pending=None)

    def _step_blend(self, session: Session) -> None:
        """Take the next of the steps from one prompt to another."""
        blend = session.point.blend
        if blend is None:
            return
        former = self._former(session) if session.point.applied[-1].change.dissolve else None
        blend = replace(blend, done=blend.done + 1)
        embedding = blend.embedding
        session.point = replace(
            session.point,
            embedding=embedding,
            text=self.transformer.encode_text(embedding),
            blend=None if blend.done == blend.chunks else blend,
            former=former,
        )
        self._evict(session, recompute=False)

    def _denoise(self, drafts: Sequence[Draft]) -> dict[int, Tensor]:
        """Make the next chunk's latents `[1, F, C, H, W]` of every draft, by session."""
        made: dict[int, Tensor] = {}
        for group in _together(drafts, lambda d: (d.size, d.sigmas, d.source is None, _key(d.session))):
            sessions = [draft.session for draft in group]
            cache = _joined(sessions)
            sources = [draft.source.latents for draft in group if draft.source is not None]
            chunk = next_chunk(
                self.transformer,
                self._text(sessions),
                cache,
                size=group[0].size,
                shape=(len(group), *sessions[0].geometry.shape),
                sigmas=group[0].sigmas,
                generator=[session.generator for session in sessions],
                source=torch.cat(sources) if sources else None,
            )
            _split(sessions, cache)
            made |= {id(session): latents[None] for session, latents in zip(sessions, chunk, strict=True)}
        return made

    def _show(self, draft: Draft, latents: Tensor | None) -> Tensor:
        """Decode a chunk `[1, F, C, H, W]`, let what was to come dissolve into it, and move the session on."""
        assert latents is not None
        session, point = draft.session, draft.session.point
        pixels, decoder = self.autoencoder.decode_chunk(latents, point.decoder)
        if point.former is not None:
            former, _ = self.autoencoder.decode_chunk(point.former, point.decoder)
            # Over the square of a step's share of the way: a shorter one shows a seam, a longer one is late.
            change = point.applied[-1].change
            share = float(change.dissolve) / change.steps**2
            pixels = crossfade(former, pixels, frames=math.ceil(pixels.shape[1] * share))
        if point.residual is not None:
            pixels = crossfade(pixels + point.residual, pixels, frames=pixels.shape[1])
        count = pixels.shape[1] if draft.source is None else draft.source.frames
        if session.geometry.length is not None:
            count = min(count, session.geometry.length - point.frames)
        frames = to_bytes(pixels[0, :count])
        session.point = replace(
            point,
            history=point.history.append(latents),
            pending=latents,
            given=None,
            former=None,
            residual=None,
            latest=latents,
            decoder=decoder,
            frames=point.frames + len(frames),
        )
        return frames

    def _evict(self, session: Session, *, recompute: bool) -> None:
        """Evict what the newest change does not carry over; recompute the keys of what is left if asked."""
        change, history = session.point.applied[-1].change, session.point.history
        carry = change.carry or session.geometry.carry
        keep_sink = change.keep_sink or (change.keep_sink is None and carry is None) or history.sink == 0
        recent = carry or history.window
        history = history.evicted(recent) if keep_sink else history.without_sink(recent)
        session.point = replace(session.point, history=history)
        if recompute or not keep_sink:
            self._prefill(session)
        else:
            session.cache.evict(recent)

    def _former(self, session: Session) -> Tensor | None:
        """Make what the next chunk is if nothing changes, `[1, F, C, H, W]`; its noise is drawn again.

        None if there is nothing that it would continue, or a video that it follows. If the prompt has changed since
        the newest frame, it is what was to come then.
        """
        if session.point.former is not None or session.point.frames == 0 or session.source is not None:
            return session.point.former
        random = session.generator.get_state()
        former = self._denoise([Draft(session, None, session.geometry.sigmas)])[id(session)]
        session.generator.set_state(random)
        return former

    def _prefill(self, session: Session) -> None:
        prefill(self.transformer, self._text([session]), session.cache, session.point.history)

    def _text(self, sessions: Sequence[Session]) -> TextKeys:
        """Return the text of every session as one batch; one that came from disk has only its embedding."""
        texts = []
        for session in sessions:
            text = session.point.text
            if text is None:
                text = self.transformer.encode_text(session.point.embedding)
                session.point = replace(session.point, text=text)
            texts.append(text)
        return TextKeys.join(texts)

    @torch.inference_mode()
    def start_from(self, session: Session, latents: Tensor, last: Tensor | None = None) -> None:
        """Make clean latents `[1, F, C, H, W]` the history of a new session, which continues from their end.

        Their frames are not returned. last: the frame that was encoded last, `[1, 1, 3, H, W]` in [0, 1]; what encoding
        lost of it fades out over the first chunk, instead of being gone at once.
        """
        point = session.point
        assert point.history.frames == 0, "a history is given before the first chunk"
        history, decoder = point.history, None
        latents = latents.to(history.latents)
        sizes = chunk_sizes(latents.shape[1], session.geometry.first, session.geometry.chunk)
        for part in latents.split(sizes, dim=1):
            history = history.append(part)
            pixels, decoder = self.autoencoder.decode_chunk(part, decoder)
        residual = None if last is None else last - pixels[:, -1:]
        session.continued = latents
        session.point = replace(point, history=history, decoder=decoder, latest=part, residual=residual)
        self._prefill(session)


def _has_ended(session: Session) -> bool:
    """Tell whether a session has all the frames that were asked for."""
    return session.geometry.length is not None and session.point.frames >= session.geometry.length


def crossfade(former: Tensor, latter: Tensor, *, frames: int) -> Tensor:
    """Cross from one clip to another of the same shape, `[B, T, C, H, W]`, over `frames` of it, in equal steps."""
    weight = torch.arange(1, latter.shape[1] + 1, device=latter.device, dtype=latter.dtype) / (frames + 1)
    return torch.lerp(former, latter, weight.clamp(max=1)[:, None, None, None])


def _together(items: Iterable[T], key: Callable[[T], Hashable]) -> list[list[T]]:
    """Group items by key, in order."""
    groups: dict[Hashable, list[T]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return list(groups.values())


def _key(session: Session) -> Hashable:
    """Return what sessions must have in common to be one batch."""
    cache, geometry = session.cache, session.geometry
    return geometry.shape, cache.window, cache.sink, session.point.embedding.shape


def _pending(session: Session) -> Tensor:
    assert session.point.pending is not None
    return session.point.pending


def _joined(sessions: Sequence[Session]) -> KVCache:
    return KVCache.join([session.cache for session in sessions])


def _split(sessions: Sequence[Session], cache: KVCache) -> None:
    """Hand each session its row of a joined cache."""
    if len(sessions) > 1:
        for session, row in zip(sessions, cache.split(), strict=True):
            session.cache = row
