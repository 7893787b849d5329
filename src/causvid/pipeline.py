"""What a user holds: a `Pipeline`, which is a whole model, and the `Stream`s of video it makes.

Letters: B batch, F latent frames, C H W a latent frame, T pixel frames.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Literal, Self

import torch
from torch import Tensor

from causvid.flow import check_few_steps, schedule, spread_steps, warped_steps
from causvid.generate.rollout import next_chunk
from causvid.generate.solver import guided_velocity, solve
from causvid.media import to_bytes
from causvid.models.autoencoder import TIME_FACTOR, Autoencoder, AutoencoderState, pixel_frames
from causvid.models.bundle import Bundle, load_bundle, save_bundle
from causvid.models.transformer import TextKeys, Transformer
from causvid.nn.cache import CacheSnapshot, KVCache

Mode = Literal["student", "teacher"]
BUILT_IN = "nano"


@dataclass(frozen=True)
class StreamState:
    """All that the next chunk of a stream depends on, besides the weights.

    latest: the newest chunk, made but not committed yet, `[1, F, C, H, W]`. random: the state of the noise's generator.
    """

    text: TextKeys
    cache: CacheSnapshot
    decoder: AutoencoderState | None
    latest: Tensor | None
    random: Tensor
    frames: int


class Stream(Iterator[Tensor]):
    """A live generation: each `next` makes a chunk and returns its frames, uint8 `[T, H, W, 3]`, on the CPU.

    The first chunk has 1 + 4 (first - 1) frames, every other 4 chunk; the last is cut to the length asked for.
    """

    def __init__(
        self,
        transformer: Transformer,
        autoencoder: Autoencoder,
        text: TextKeys,
        cache: KVCache,
        *,
        first: int,
        chunk: int,
        latent_shape: tuple[int, int, int],
        sigmas: Sequence[float],
        seed: int,
        length: int | None,
    ) -> None:
        """Start a stream of `length` frames, None for one without end; `latent_shape` is (C, H, W)."""
        self._transformer, self._autoencoder = transformer, autoencoder
        self._text, self._cache = text, cache
        self._first, self._chunk, self._shape, self._sigmas = first, chunk, latent_shape, tuple(sigmas)
        self._generator = torch.Generator().manual_seed(seed)
        self._decoder: AutoencoderState | None = None
        self._latest: Tensor | None = None
        self.length = length
        self.frames = 0

    @property
    def latent(self) -> Tensor | None:
        """Return the newest chunk before decoding, `[1, F, C, H, W]`; None before the first."""
        return self._latest

    @torch.inference_mode()
    def __next__(self) -> Tensor:
        if self.length is not None and self.frames >= self.length:
            raise StopIteration
        self._latest = next_chunk(
            self._transformer,
            self._text,
            self._cache,
            latest=self._latest,
            size=self._first if self._latest is None else self._chunk,
            shape=(1, *self._shape),
            sigmas=self._sigmas,
            generator=self._generator,
        )
        pixels, self._decoder = self._autoencoder.decode_chunk(self._latest, self._decoder)
        left = None if self.length is None else self.length - self.frames
        frames = to_bytes(pixels[0, :left])
        self.frames += len(frames)
        return frames

    @torch.inference_mode()
    def snapshot(self) -> StreamState:
        """Return the state of the stream, as a value that later chunks do not change."""
        return StreamState(
            text=self._text,
            cache=self._cache.snapshot(),
            decoder=self._decoder,
            latest=self._latest,
            random=self._generator.get_state(),
            frames=self.frames,
        )

    @torch.inference_mode()
    def restore(self, state: StreamState) -> None:
        """Go back (or over) to a state of this stream, or of one of the same model and sizes.

        Raises:
            ValueError: if the state is of other sizes.
        """
        self._cache.restore(state.cache)
        self._text, self._decoder, self._latest = state.text, state.decoder, state.latest
        self._generator.set_state(state.random)
        self.frames = state.frames


class Pipeline:
    """A whole model: `for frames in Pipeline.from_pretrained().stream("a swan", seconds=5): ...`."""

    def __init__(self, bundle: Bundle) -> None:
        """Take a bundle, whose parts are on one device."""
        self.bundle = bundle
        self.generation = bundle.generation

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path | None = None,
        *,
        device: torch.device | str = "cpu",
    ) -> Self:
        """Load a bundle from its folder; the built-in model by default.

        Raises:
            ValueError: if the folder is missing, damaged, or not a bundle.
        """
        folder = Path(str(resources.files("causvid") / "bundles" / BUILT_IN)) if path is None else path
        return cls(load_bundle(folder, device=device))

    def save_pretrained(self, path: str | Path, *, dtype: torch.dtype = torch.float32) -> None:
        """Write the model as a bundle, with the card it was loaded with, replacing one that is there.

        Raises:
            ValueError: if the folder exists and is not a bundle.
        """
        parts = self.bundle
        save_bundle(
            path,
            transformer=parts.transformer,
            autoencoder=parts.autoencoder,
            text_encoder=parts.text_encoder,
            generation=parts.generation,
            provenance=parts.provenance,
            teacher=parts.teacher,
            classifier=parts.classifier,
            card_from=parts.folder,
            dtype=dtype,
        )

    @property
    def fps(self) -> float:
        """Native frames a second."""
        return self.generation.fps

    @property
    def clip_seconds(self) -> float:
        """Length of a clip the model was trained on, which is also the longest its teacher makes."""
        return pixel_frames(self.generation.clip_frames) / self.fps

    @property
    def sigmas(self) -> tuple[float, ...]:
        """The student's own noise levels."""
        return warped_steps(self.generation.timesteps, self.generation.shift)

    def unknown_words(self, prompt: str) -> list[str]:
        """List the words of a prompt that the model has never seen."""
        return self.bundle.text_encoder.unknown_words(prompt)

    def stream(
        self,
        prompt: str,
        *,
        seconds: float | None = None,
        seed: int = 0,
        mode: Mode = "student",
        steps: int | None = None,
        sigmas: Sequence[float] | None = None,
        window: int | None = None,
        sink: int | None = None,
        height: int | None = None,
        width: int | None = None,
    ) -> Iterator[Tensor]:
        """Make a video chunk by chunk; the student's is a `Stream`, the teacher's one chunk that is the whole clip.

        Args:
            seconds: length; None is without end for the student, and a clip for the teacher.
            seed: the same seed gives the same video.
            steps: denoising steps a chunk. Fewer than the model's own are chosen from them, more are spread evenly.
            sigmas: noise levels instead, from 1 down, without the final 0.
            window, sink: past latent frames kept, and first ones never forgotten; by default the model's own.
            height, width: pixels; by default the model's own, which is where it is at its best.

        Returns:
            An iterator of uint8 `[T, H, W, 3]` on the CPU.

        Raises:
            ValueError: if a value cannot be used; at once, not when the first chunk is asked for.
        """
        self._check_prompts([prompt], [seed])
        shape = self._latent_shape(height, width)
        if mode == "teacher":
            if sigmas is not None or window is not None or sink is not None:
                raise ValueError("sigmas, window and sink are the student's: the teacher makes whole clips")
            return self._teach([prompt], [seed], self._teacher(), shape, seconds=seconds, steps=steps)
        _check_mode(mode)
        length = None if seconds is None else self._length(seconds)
        levels = self._student_levels(steps, sigmas)
        own = self.generation
        kept = {"window": own.window if window is None else window, "sink": own.sink if sink is None else sink}
        most = math.ceil(own.max_seconds * own.fps / TIME_FACTOR)
        for name, value in kept.items():
            if not 0 <= value <= most:
                raise ValueError(f"{name}={value} is not from 0 to {most} latent frames")
        with torch.inference_mode():
            model = self.bundle.transformer
            cache = model.new_cache(batch=1, height=shape[1], width=shape[2], **kept)
            return Stream(
                model,
                self.bundle.autoencoder,
                self._encode(model, [prompt]),
                cache,
                first=own.first,
                chunk=own.chunk,
                latent_shape=shape,
                sigmas=levels,
                seed=seed,
                length=length,
            )

    def generate_batch(
        self,
        prompts: Sequence[str],
        *,
        seeds: Sequence[int],
        seconds: float | None = None,
        mode: Mode = "student",
        steps: int | None = None,
    ) -> Tensor:
        """Make a video of every prompt, uint8 `[B, T, H, W, 3]` on the CPU; one depends on its own seed alone.

        Args:
            seconds: length; by default that of a training clip, which is the longest that the teacher makes.
            mode: who makes them. steps: denoising steps a chunk (student) or a clip (teacher).

        Raises:
            ValueError: if a value cannot be used.
        """
        self._check_prompts(prompts, seeds)
        if mode == "teacher":
            shape = self._latent_shape(None, None)
            return torch.stack(list(self._teach(prompts, seeds, self._teacher(), shape, seconds=seconds, steps=steps)))
        _check_mode(mode)
        lasting = self.clip_seconds if seconds is None else seconds
        streams = (self.stream(p, seconds=lasting, seed=s, steps=steps) for p, s in zip(prompts, seeds, strict=True))
        return torch.stack([torch.cat(list(stream)) for stream in streams])

    def _teacher(self) -> Transformer:
        if self.bundle.teacher is None:
            raise ValueError("mode='teacher' needs a bundle with a teacher: this one has none")
        return self.bundle.teacher

    def _teach(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        model: Transformer,
        shape: tuple[int, int, int],
        *,
        seconds: float | None,
        steps: int | None,
    ) -> Iterator[Tensor]:
        """Check, then yield whole clips made by the teacher, uint8 `[T, H, W, 3]` each."""
        own = self.generation
        clip = pixel_frames(own.clip_frames)
        length = clip if seconds is None else self._length(seconds)
        if length > clip:
            raise ValueError(f"seconds={seconds:g} is longer than the teacher's clip of {self.clip_seconds:g} seconds")
        if steps is not None:
            self._check_steps(steps)
        levels = [float(level) for level in schedule(own.teacher_steps if steps is None else steps, own.shift)]
        size = (own.clip_frames, *shape)

        @torch.inference_mode()
        def clips() -> Iterator[Tensor]:
            noise = torch.stack([torch.randn(size, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
            text, null_text = self._encode(model, prompts), self._encode(model, [""] * len(prompts))
            velocity = guided_velocity(model, text, null_text, guidance=own.guidance)
            latents, _ = solve(velocity, noise.to(model.patch_in.weight.device), sigmas=levels)
            for latent in latents:
                yield to_bytes(self.bundle.autoencoder.decode(latent[None])[0, :length])

        return clips()

    def _encode(self, model: Transformer, prompts: Sequence[str]) -> TextKeys:
        weight = model.patch_in.weight
        return model.encode_text(self.bundle.text_encoder.embed(prompts, weight.device).to(weight.dtype))

    def _check_prompts(self, prompts: Sequence[str], seeds: Sequence[int]) -> None:
        if not prompts or len(prompts) != len(seeds):
            raise ValueError(f"{len(prompts)} prompts and {len(seeds)} seeds: expected as many of each, at least one")
        for prompt in prompts:
            if not any(character.isalnum() for character in prompt):
                raise ValueError(f"prompt={prompt!r} is empty: say in a few words what to show")
        self.bundle.text_encoder.tokens(prompts)
        for seed in seeds:
            if not 0 <= seed < 2**63:
                raise ValueError(f"seed={seed} is not from 0 to 2^63 - 1")

    def _length(self, seconds: float) -> int:
        """Turn seconds into pixel frames."""
        most = self.generation.max_seconds
        if not (math.isfinite(seconds) and 0 < seconds <= most):
            raise ValueError(f"seconds={seconds:g} is not above 0 and at most {most:g}")
        return max(1, round(seconds * self.fps))

    def _latent_shape(self, height: int | None, width: int | None) -> tuple[int, int, int]:
        """Turn a size in pixels into (C, H, W) of a latent frame."""
        factor = self.bundle.autoencoder.spatial_factor
        unit = factor * self.bundle.transformer.config.patch
        own = self.generation
        sides = []
        for name, asked, native in (("height", height, own.height), ("width", width, own.width)):
            side = native if asked is None else asked
            low, high = -(-native // (2 * unit)) * unit, 2 * native // unit * unit
            if side % unit or not low <= side <= high:
                raise ValueError(f"{name}={side} is not a multiple of {unit} from {low} to {high} (made for {native})")
            sides.append(side // factor)
        return self.bundle.autoencoder.latent_channels, sides[0], sides[1]

    def _student_levels(self, steps: int | None, sigmas: Sequence[float] | None) -> tuple[float, ...]:
        own = self.sigmas
        if sigmas is not None:
            if steps is not None:
                raise ValueError("give steps or sigmas, not both")
            check_few_steps(tuple(sigmas))
            return tuple(sigmas)
        if steps is None or steps == len(own):
            return own
        self._check_steps(steps)
        if steps < len(own):
            return tuple(own[index * len(own) // steps] for index in range(steps))
        return spread_steps(steps, self.generation.shift)

    def _check_steps(self, steps: int) -> None:
        most = max(100, self.generation.teacher_steps)
        if not 1 <= steps <= most:
            raise ValueError(f"steps={steps} is not from 1 to {most}")


def _check_mode(mode: str) -> None:
    if mode != "student":
        raise ValueError(f"mode={mode!r} is not 'student' or 'teacher'")
