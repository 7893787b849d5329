"""What a user holds: a `Pipeline`, which is a whole model and makes `Stream`s of video.

Letters: B batch, F latent frames, C H W a latent frame, T pixel frames.
"""

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from causvid.engine.limits import latent_size, memory, own_sigmas, pixel_length, student_sigmas, teacher_sigmas
from causvid.engine.request import GenerationRequest, check_prompt
from causvid.engine.session import Session
from causvid.engine.solver import guided_velocity, solve
from causvid.engine.source import levels_below, load_image
from causvid.engine.start import resume, start
from causvid.engine.step import Engine
from causvid.engine.storage import fingerprint, load_session
from causvid.loading.assemble import assemble
from causvid.loading.bundle import Bundle, save_bundle
from causvid.loading.spec import ModelSpec
from causvid.media import to_bytes
from causvid.models.autoencoder import TIME_FACTOR, pixel_frames
from causvid.models.transformer import TextKeys, Transformer
from causvid.stream import Stream
from causvid.timeline import Playback, Shot, Timeline, record
from causvid.worlds.storybook.nearest import nearest_words
from causvid.worlds.storybook.steering import steer


class Pipeline:
    """A whole model: `for frames in Pipeline.from_pretrained().stream("a swan", seconds=5): ...`."""

    def __init__(self, bundle: Bundle) -> None:
        """Take a bundle, whose parts are on one device."""
        self.bundle = bundle
        self.generation = bundle.generation

    @classmethod
    def from_pretrained(
        cls, model: str | Path | ModelSpec | None = None, *, device: torch.device | str = "cpu", **parts: Any
    ) -> Self:
        """Load a model by path or by name on the Hugging Face Hub; the built-in one by default.

        Args:
            model: a bundle, a folder of diffusers with Wan 2.1, Wan 2.1's own, or a whole `ModelSpec`.
            parts: the other fields of `ModelSpec`.

        Raises:
            ValueError: if a part is missing, damaged, or does not fit the others.
        """
        fields = dict(model) if isinstance(model, ModelSpec) else {"model": model}
        return cls(assemble(ModelSpec.make(**{**fields, **parts}), device=_found(device)))

    def save_pretrained(self, path: str | Path, *, dtype: torch.dtype = torch.float32) -> None:
        """Write the model as a bundle, with the card it was loaded with, replacing one that is there.

        Raises:
            ValueError: if the folder exists and is not a bundle.
        """
        save_bundle(path, self.bundle, dtype=dtype)

    @property
    def fps(self) -> float:
        """Native frames a second."""
        return self.generation.fps

    @property
    def chunk_frames(self) -> int:
        """Pixel frames of a chunk; the first may have fewer."""
        return TIME_FACTOR * self.generation.chunk

    @property
    def clip_seconds(self) -> float:
        """Length of a clip the model was trained on, which is also the longest its teacher makes."""
        return pixel_frames(self.generation.clip_frames) / self.fps

    @property
    def sigmas(self) -> tuple[float, ...]:
        """The student's own noise levels."""
        return own_sigmas(self.generation)

    def unknown_words(self, prompt: str) -> list[str]:
        """List the words of a prompt that the model has never seen, and that stand for nothing it has."""
        return self.bundle.text_encoder.unknown_words(self.understood(prompt)[0])

    def understood(self, prompt: str) -> tuple[str, list[tuple[str, str]]]:
        """Return a prompt as the model reads it, and the words that were replaced: `("venturing", "walking")`.

        A model of a procedural world knows few words: others of the same kind take the place of those it does not, if
        there are any. Every other model reads the prompt as it is.
        """
        text = self.bundle.text_encoder
        if self.bundle.provenance.get("world") is None or not text.unknown_words(prompt):
            return prompt, []
        return nearest_words(prompt, text.tokenizer.vocabulary())

    def steered(self, prompt: str, action: str) -> str:
        """Return a prompt whose subject does what a player asks for: `left`, `right`, `hop`, `spin` or `stop`.

        An action is words of the prompt, which every model reads: `stream.prompt = pipeline.steered(stream.prompt,
        "left")` takes effect at the next chunk.

        Raises:
            ValueError: for an unknown action.
        """
        text = self.bundle.text_encoder
        return steer(prompt, action, known=lambda phrase: not text.unknown_words(phrase))

    @cached_property
    def fingerprint(self) -> str:
        """Digest of the weights a session depends on."""
        parts = self.bundle
        return fingerprint(parts.transformer, parts.autoencoder)

    def stream(self, prompt: str | GenerationRequest, **options: Any) -> Stream:
        """Make a video chunk by chunk, without end unless `seconds` says so.

        Args:
            prompt: what to show, or a whole request. options: those of `GenerationRequest`.

        Raises:
            ValueError, OSError: if a value cannot be used; at once, not when the first chunk is asked for.
        """
        given = dict(prompt) if isinstance(prompt, GenerationRequest) else {"prompt": prompt}
        request = GenerationRequest.make(**{**given, **options})
        return self._hold(self._start(request))

    def check(self, request: GenerationRequest) -> None:
        """Check a request without starting it; the files it names are not read.

        Raises:
            ValueError: if a value cannot be used.
        """
        own = self.generation
        self._check_prompt(request.prompt)
        self._latent_shape(request.height, request.width)
        memory(own, request.window, request.sink)
        levels_below(request.strength, student_sigmas(own, request.steps, request.sigmas))
        if request.seconds is not None:
            pixel_length(own, request.seconds)

    def resume(self, file: str | Path) -> Stream:
        """Continue a stream that `Stream.save` wrote, as if it had never stopped.

        Raises:
            ValueError: if the file is missing, damaged, or of another model; OSError: if its source cannot be read.
        """
        engine = self._engine()
        device = engine.transformer.patch_in.weight.device
        state = load_session(Path(file), model=self.fingerprint, device=device)
        try:
            shape = self._latent_shape(state.request.height, state.request.width)
            return self._hold(resume(engine, self.generation, state, shape=shape))
        except ValueError as error:
            raise ValueError(f"session {file} cannot be used: {error}") from None

    def play(self, timeline: Timeline) -> Playback:
        """Play a timeline: one video whose prompts change as it says.

        Raises:
            ValueError, OSError: if a value cannot be used; at once, not when the shot it belongs to is reached.
        """
        if not isinstance(timeline, Timeline):
            raise TypeError(f"timeline is of type {type(timeline).__name__}: expected a Timeline")
        pixel_length(self.generation, timeline.seconds)
        images = {}
        for number, shot in enumerate(timeline.shots):
            try:
                self._check_prompt(shot.prompt)
                if shot.image is not None:
                    size = self._pixel_size(timeline.height, timeline.width)
                    images[shot.image] = load_image(shot.image, *size, fit=timeline.fit)
            except (ValueError, OSError) as error:
                if len(timeline.shots) == 1:
                    raise
                raise ValueError(f"shots.{number}: {error}") from None

        def start_shot(shot: Shot, frames: int, seed: int) -> Stream:
            options = {**dict(timeline.options), "seconds": frames / self.fps, "seed": seed}
            if shot is not timeline.shots[0]:
                options["after"] = None
            return self.stream(shot.prompt, image=images.get(shot.image or ""), **options)

        return Playback(timeline, start_shot, fps=self.fps)

    def record(self, stream: Stream) -> Timeline:
        """Return the timeline that plays a stream again, as far as it has come: its seed, its prompts, its settings."""
        return record(stream, factor=self.bundle.autoencoder.spatial_factor)

    def generate_batch(
        self,
        prompts: Sequence[str],
        *,
        seeds: Sequence[int],
        seconds: float | None = None,
        steps: int | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Tensor:
        """Make a video of every prompt as one batch, uint8 `[B, T, H, W, 3]` on the CPU; each has a seed of its own.

        Args:
            seconds: length; by default that of a training clip. steps: denoising steps a chunk.
            progress: called after every chunk with the frames of each video so far, and in all.

        Raises:
            ValueError: if a value cannot be used.
        """
        self._check_batch(prompts, seeds, seconds=seconds, steps=steps)
        length = pixel_length(self.generation, self.clip_seconds if seconds is None else seconds)
        engine = self._engine()
        sessions = [
            self._start(GenerationRequest.make(prompt=prompt, seed=seed, steps=steps, seconds=length / self.fps))
            for prompt, seed in zip(prompts, seeds, strict=True)
        ]
        videos: list[list[Tensor]] = [[] for _ in sessions]
        done = 0
        while done < length:
            for video, frames in zip(videos, engine.advance(sessions), strict=True):
                assert frames is not None
                video.append(frames)
            done += len(videos[0][-1])
            if progress is not None:
                progress(done, length)
        return torch.stack([torch.cat(video) for video in videos])

    def teach(
        self,
        prompts: Sequence[str],
        *,
        seeds: Sequence[int],
        seconds: float | None = None,
        steps: int | None = None,
        height: int | None = None,
        width: int | None = None,
    ) -> Tensor:
        """Let the teacher make a whole clip of every prompt, uint8 `[B, T, H, W, 3]` on the CPU.

        Args:
            seconds: length; by default, and at most, that of a training clip. steps: of the teacher's solver.

        Raises:
            ValueError: if a value cannot be used, or the model has no teacher.
        """
        self._check_batch(prompts, seeds)
        own, model = self.generation, self.bundle.teacher
        if model is None:
            raise ValueError("this model has no teacher: load one that has, or use its student")
        clip = pixel_frames(own.clip_frames)
        length = clip if seconds is None else pixel_length(own, seconds)
        if length > clip:
            raise ValueError(f"seconds={seconds:g} is longer than the teacher's clip of {self.clip_seconds:g} seconds")
        levels = teacher_sigmas(own, steps)
        size = (own.clip_frames, *self._latent_shape(height, width))
        with torch.inference_mode():
            noise = torch.stack([torch.randn(size, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
            text, null_text = self._encode(model, prompts), self._encode(model, [""] * len(prompts))
            velocity = guided_velocity(model, text, null_text, guidance=own.guidance)
            latents, _ = solve(velocity, noise.to(model.patch_in.weight.device), sigmas=levels)
            # One by one: a decoder's activations are larger than all latents together.
            return torch.stack([to_bytes(self.bundle.autoencoder.decode(one[None])[0, :length]) for one in latents])

    def _start(self, request: GenerationRequest) -> Session:
        self._check_prompt(request.prompt)
        shape = self._latent_shape(request.height, request.width)
        return start(self._engine(), self.generation, request, shape=shape)

    def _hold(self, session: Session) -> Stream:
        return Stream(self._engine(), session, fps=self.fps, model=lambda: self.fingerprint)

    def _engine(self) -> Engine:
        if self.bundle.transformer is self.bundle.teacher:
            raise ValueError(
                "a stream needs a causal student: this model is a teacher, which sees whole clips; "
                "give student= (--student), or let the teacher make a clip (--teacher)"
            )
        return Engine(self.bundle.transformer, self.bundle.autoencoder, embed=self._embed, check=self._check_prompt)

    def _encode(self, model: Transformer, prompts: Sequence[str]) -> TextKeys:
        weight = model.patch_in.weight
        return model.encode_text(
            self.bundle.text_encoder.embed([self.understood(prompt)[0] for prompt in prompts], weight.device).to(
                weight.dtype
            )
        )

    def _embed(self, prompt: str) -> Tensor:
        weight = self.bundle.transformer.patch_in.weight
        return self.bundle.text_encoder.embed([self.understood(prompt)[0]], weight.device).to(weight.dtype)

    def _check_prompt(self, prompt: str) -> None:
        check_prompt(prompt)
        self.bundle.text_encoder.tokens([self.understood(prompt)[0]])

    def _check_batch(self, prompts: Sequence[str], seeds: Sequence[int], **options: object) -> None:
        if isinstance(prompts, str) or not isinstance(prompts, Sequence) or not isinstance(seeds, Sequence):
            raise TypeError(f"prompts={prompts!r}, seeds={seeds!r}: expected a list of each")
        if not prompts or len(prompts) != len(seeds):
            raise ValueError(f"{len(prompts)} prompts and {len(seeds)} seeds: expected as many of each, at least one")
        for prompt, seed in zip(prompts, seeds, strict=True):
            GenerationRequest.make(prompt=prompt, seed=seed, **options)
            self._check_prompt(prompt)

    def _latent_shape(self, height: int | None, width: int | None) -> tuple[int, int, int]:
        """Turn a size in pixels into (C, H, W) of a latent frame."""
        autoencoder, patch = self.bundle.autoencoder, self.bundle.transformer.config.patch
        rows, columns = latent_size(self.generation, height, width, factor=autoencoder.spatial_factor, patch=patch)
        return autoencoder.latent_channels, rows, columns

    def _pixel_size(self, height: int | None, width: int | None) -> tuple[int, int]:
        _, rows, columns = self._latent_shape(height, width)
        return rows * self.bundle.autoencoder.spatial_factor, columns * self.bundle.autoencoder.spatial_factor


def _found(device: torch.device | str) -> torch.device:
    """Return a device of this machine."""
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, TypeError):
        raise ValueError(f"device={device!r} is not available on this machine") from None
