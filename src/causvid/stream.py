"""A live generation: a stream of frames whose whole state is a value.

Letters: B batch (1 here), F latent frames, C H W a latent frame, M text tokens, T pixel frames.

Text-to-video, image-to-video, extension, video-to-video and a prompt that changes are one loop: what differs is the
history it starts from, the latents a chunk starts from, and the text it is made under.
"""

import itertools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from dataclasses import replace
from typing import get_args

import torch
from torch import Tensor

from causvid.engine.history import History, rebuild
from causvid.engine.rollout import commit_chunk, next_chunk
from causvid.engine.source import SourceChunk, adapted
from causvid.engine.state import BLEND, Blend, Change, Point, PromptMode, StreamSettings, StreamState
from causvid.media import to_bytes
from causvid.models.autoencoder import Autoencoder
from causvid.models.transformer import Transformer


class Stream(Iterator[Tensor]):
    """A live generation: each `next` makes a chunk and returns its frames, uint8 `[T, H, W, 3]`, on the CPU.

    The first chunk has 1 + 4 (first - 1) frames, every other 4 chunk; the last is cut to the length asked for.
    """

    def __init__(
        self,
        transformer: Transformer,
        autoencoder: Autoencoder,
        embed: Callable[[str], Tensor],
        prompt: str,
        settings: StreamSettings,
        *,
        seed: int,
        source: Iterator[SourceChunk] | None = None,
    ) -> None:
        """Start a stream.

        embed: turns a prompt into its embedding `[1, M, D]`, on the transformer's device. source: a video that every
        chunk starts from (video-to-video); the stream ends where it ends, and cannot go back.
        """
        self._source, self.seed = source, seed
        self.past: Tensor | None = None
        """The clean latents that were taken up, `[1, F, C, H, W]`."""
        self._transformer, self._autoencoder, self._embed = transformer, autoencoder, embed
        self.settings = settings
        _, height, width = settings.shape
        window, sink = settings.window, settings.sink
        self._generator = torch.Generator().manual_seed(seed)
        self._kept: deque[StreamState] = deque()
        with torch.inference_mode():
            embedding = embed(prompt)  # before the cache is there: a text encoder may need its room for a moment
            self._cache = transformer.new_cache(batch=1, height=height, width=width, window=window, sink=sink)
            nothing = torch.empty((1, 0, *settings.shape), device=transformer.patch_in.weight.device)
            history = History(nothing, 0, window, sink, settings.first, settings.chunk)
            self._now = Point((Change(0, prompt),), embedding, transformer.encode_text(embedding), history)

    @property
    def frames(self) -> int:
        """Return how many pixel frames were given out."""
        return self._now.frames

    @property
    def changes(self) -> tuple[Change, ...]:
        """Return every prompt the frames so far were made under, and those of frames to come, in order."""
        return self._now.changes

    @property
    def length(self) -> int | None:
        """Return how many pixel frames there will be; None for a stream without end."""
        return self.settings.length

    @property
    def latent(self) -> Tensor | None:
        """Return the newest chunk before decoding, `[1, F, C, H, W]`; None before the first."""
        return self._now.latest

    @property
    def prompt(self) -> str:
        """The prompt of the next chunk; setting it is `set_prompt` with the default mode."""
        return self._now.changes[-1].prompt

    @prompt.setter
    def prompt(self, prompt: str) -> None:
        self.set_prompt(prompt)

    @torch.inference_mode()
    def __next__(self) -> Tensor:
        if self.length is not None and self.frames >= self.length:
            raise StopIteration
        source = None if self._source is None else next(self._source)
        self._remember()
        self._settle()
        self._blend()
        now = self._now
        latest = self._make(source) if now.given is None else now.given
        pixels, decoder = self._autoencoder.decode_chunk(latest, now.decoder)
        if now.former is not None:
            former, _ = self._autoencoder.decode_chunk(now.former, now.decoder)
            pixels = crossfade(former, pixels, frames=-(-pixels.shape[1] // now.changes[-1].steps ** 2))
        if now.lost is not None:
            pixels = crossfade(pixels + now.lost, pixels, frames=pixels.shape[1])
        lasting = pixels.shape[1] if source is None else source.frames
        if self.length is not None:
            lasting = min(lasting, self.length - now.frames)
        frames = to_bytes(pixels[0, :lasting])
        self._now = replace(
            now,
            history=now.history.append(latest),
            pending=latest,
            given=None,
            former=None,
            lost=None,
            latest=latest,
            decoder=decoder,
            frames=now.frames + len(frames),
        )
        return frames

    def _make(self, source: SourceChunk | None) -> Tensor:
        """Make the next chunk's latents `[1, F, C, H, W]`."""
        settings = self.settings
        sigmas = settings.sigmas
        if source is not None:
            strength = settings.strength
            sigmas = levels_below(adapted(strength, source.motion) if settings.adapt else strength, sigmas)
        return next_chunk(
            self._transformer,
            self._now.text,
            self._cache,
            latest=None,
            size=settings.first if self._now.history.frames == 0 else settings.chunk,
            shape=(1, *settings.shape),
            sigmas=sigmas,
            generator=self._generator,
            source=None if source is None else source.latents,
        )

    @torch.inference_mode()
    def set_prompt(
        self,
        prompt: str,
        mode: PromptMode = "recache",
        *,
        chunks: int = BLEND,
        keep_sink: bool | None = None,
        carry: int | None = None,
        dissolve: bool = True,
    ) -> None:
        """Change the prompt from the next chunk on.

        Args:
            mode: "cut" changes the text alone, "recache" also makes the keys of the visible past anew under it,
                "blend" moves the text's embedding there over `chunks` chunks. Where the sink is dropped, the past is
                made anew in every mode, and at every step of a blend.
            carry: how many of the window's latent frames stay visible; by default what the model's settings say, which
                may be all. The fewer, the sooner what they show gives way to what the prompt says.
            keep_sink: whether the first frames stay visible for ever, by default unless `carry` is given, here or by
                the model; otherwise the oldest of what is visible take their place.
            dissolve: unless it is a cut, let the frames that were to come dissolve into those of the next chunk, over
                all of it; each step of a blend, over a part as small as the square of its share of the way. It takes
                the time of as many more chunks. Nothing dissolves before the first frame, or in video-to-video, where
                the video given holds the frames together.

        Raises:
            ValueError: if the mode is unknown, `chunks` or `carry` is below 1, or the prompt too long.
        """
        if mode not in get_args(PromptMode):
            raise ValueError(f"mode={mode!r} is not one of {', '.join(get_args(PromptMode))}")
        for name, value in (("chunks", chunks), ("carry", carry)):
            if value is not None and value < 1:
                raise ValueError(f"{name}={value} is not at least 1")
        end = self._embed(prompt)
        self._settle()
        change = Change(self.frames, prompt, mode, chunks, keep_sink, carry, dissolve)
        former = self._now.former
        if mode == "cut" or not dissolve:
            former = None
        elif mode == "recache":
            former = self._former()
        now = replace(self._now, changes=(*self._now.changes, change), blend=None, former=former)
        if mode == "blend":
            now = replace(now, blend=Blend(now.embedding, end, chunks))
        else:
            now = replace(now, embedding=end, text=self._transformer.encode_text(end))
        self._now = now
        if mode != "blend":
            self._look_back(anew=mode == "recache")

    @torch.inference_mode()
    def give(self, latents: Tensor) -> None:
        """Let clean latents `[1, F, C, H, W]`, such as an encoded image, stand in for the next chunk."""
        self._now = replace(self._now, given=latents.to(self._now.history.latents))

    @torch.inference_mode()
    def take_up(self, latents: Tensor, last: Tensor | None = None) -> None:
        """Take clean latents `[1, F, C, H, W]` as the past of a stream that has none: it goes on from their end.

        Their frames are not given out. last: the frame that was encoded last, `[1, 1, 3, H, W]` in [0, 1]; what
        encoding lost of it fades out over the first chunk, instead of being gone at once.
        """
        assert self._now.history.frames == 0, "a past is taken up before the first chunk"
        latents, settings = latents.to(self._now.history.latents), self.settings
        history, decoder = self._now.history, None
        sizes = chunk_sizes(latents.shape[1], settings.first, settings.chunk)
        for part in latents.split(sizes, dim=1):
            history = history.append(part)
            pixels, decoder = self._autoencoder.decode_chunk(part, decoder)
        lost = None if last is None else last - pixels[:, -1:]
        self.past = latents
        self._now = replace(self._now, history=history, decoder=decoder, latest=latents[:, -sizes[-1] :], lost=lost)
        rebuild(self._transformer, self._now.text, self._cache, history)

    @torch.inference_mode()
    def snapshot(self) -> StreamState:
        """Return the state of the stream, as a value that later chunks do not change."""
        return StreamState(self._now, self._cache.snapshot(), self._generator.get_state(), self.seed)

    @torch.inference_mode()
    def restore(self, state: StreamState) -> None:
        """Go back (or over) to a state of this stream, or of one of the same model and sizes.

        Raises:
            ValueError: if the state is of other sizes, or the stream follows a video.
        """
        self._check_free()
        self._cache.restore(state.cache)
        self._generator.set_state(state.random)
        self._now, self.seed = state.point, state.seed

    @torch.inference_mode()
    def fork(self) -> "Stream":
        """Return a second stream with the same past and the same future, unless one of them is told otherwise.

        They share memory until they differ.

        Raises:
            ValueError: if the stream follows a video.
        """
        self._check_free()
        fork = copy(self)
        fork._cache = self._cache.fork()
        fork._generator = torch.Generator()
        fork._generator.set_state(self._generator.get_state())
        fork._kept = deque(self._kept)
        return fork

    def rewind(self, frames: int) -> int:
        """Go back at least so many pixel frames, to the end of a chunk; return how many it were.

        Raises:
            ValueError: if `frames` is below 1, or the stream does not remember a state that far back.
        """
        if frames < 1:
            raise ValueError(f"frames={frames} is not at least 1")
        reached = [state for state in self._kept if state.frames <= self.frames - frames]
        if not reached:
            oldest = self._kept[0].frames if self._kept else self.frames
            raise ValueError(f"frames={frames}: this stream can go back {self.frames - oldest} frames")
        before = self.frames
        self.restore(reached[-1])
        while self._kept and self._kept[-1].frames >= self.frames:
            self._kept.pop()
        return before - self.frames

    def _check_free(self) -> None:
        if self._source is not None:
            raise ValueError("a stream that follows a video cannot go back or fork: the video goes on")

    def _remember(self) -> None:
        """Keep the present state, to be rewound to, and let go of those that are older than need be."""
        if self.settings.keep:
            self._kept.append(self.snapshot())
            while len(self._kept) > 1 and self._kept[1].frames <= self.frames - self.settings.keep:
                self._kept.popleft()

    def _settle(self) -> None:
        """Bring the cache up to the newest chunk, under the text it was made with."""
        now = self._now
        if now.pending is None:
            return
        if self.settings.policy == "recompute":
            rebuild(self._transformer, now.text, self._cache, now.history)
        else:
            commit_chunk(self._transformer, now.pending, now.text, self._cache)
        self._now = replace(now, pending=None)

    def _blend(self) -> None:
        """Take the next of the steps from one prompt to another."""
        blend = self._now.blend
        if blend is None:
            return
        former = self._former() if self._now.changes[-1].dissolve else None
        blend = replace(blend, done=blend.done + 1)
        embedding = blend.embedding
        text = self._transformer.encode_text(embedding)
        over = blend.done == blend.chunks
        self._now = replace(self._now, embedding=embedding, text=text, blend=None if over else blend, former=former)
        self._look_back()

    def _look_back(self, *, anew: bool = False) -> None:
        """Put out of sight what the newest change does not carry on; make what is left anew if told to."""
        change, history = self._now.changes[-1], self._now.history
        carry = change.carry or self.settings.carry
        keep_sink = change.keep_sink or (change.keep_sink is None and carry is None) or history.sink == 0
        recent = carry or history.window
        history = history.narrowed(recent) if keep_sink else history.without_sink(recent)
        self._now = replace(self._now, history=history)
        if anew or not keep_sink:
            rebuild(self._transformer, self._now.text, self._cache, history)
        else:
            self._cache.narrow(recent)

    def _former(self) -> Tensor | None:
        """Make what the next chunk is if nothing changes, `[1, F, C, H, W]`; its noise is drawn again.

        None if there is nothing that it would go on from, or a video that it follows. If the prompt has changed since
        the newest frame, it is what was to come then.
        """
        if self._now.former is not None or self.frames == 0 or self._source is not None:
            return self._now.former
        random = self._generator.get_state()
        former = self._make(None)
        self._generator.set_state(random)
        return former


def chunk_sizes(frames: int, first: int, chunk: int) -> list[int]:
    """Cut so many latent frames into chunks [first, chunk, chunk, ...]; the last may be shorter."""
    bounds = [0, *range(min(first, frames), frames, chunk), frames]
    return [b - a for a, b in itertools.pairwise(bounds) if b > a]


def first_chunk(frames: int, first: int, chunk: int) -> int:
    """Return the size of the first chunk of a past of so many latent frames, all of whose others are whole.

    That is `first`, unless the past began in another way, as with an image.
    """
    return first if frames >= first and (frames - first) % chunk == 0 else (frames - 1) % chunk + 1


def levels_below(strength: float, sigmas: Sequence[float]) -> tuple[float, ...]:
    """Return the noise levels of a chunk that starts at `strength` in (0, 1]: it, then those of `sigmas` below it.

    Raises:
        ValueError: if `strength` is out of range.
    """
    if not 0 < strength <= 1:
        raise ValueError(f"strength={strength:g} is not above 0 and at most 1")
    return (strength, *(sigma for sigma in sigmas if sigma < strength))


def crossfade(former: Tensor, latter: Tensor, *, frames: int) -> Tensor:
    """Cross from one clip to another of the same shape, `[B, T, C, H, W]`, over `frames` of it, in equal steps."""
    weight = torch.arange(1, latter.shape[1] + 1, device=latter.device, dtype=latter.dtype) / (frames + 1)
    return torch.lerp(former, latter, weight.clamp(max=1)[:, None, None, None])
