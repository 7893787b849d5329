"""What a user holds: a `Pipeline`, which is a whole model and makes `Stream`s of video.

Letters: B batch, F latent frames, C H W a latent frame, T pixel frames.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, Self, get_args

import torch
from torch import Tensor

from causvid.engine.beginning import begin
from causvid.engine.limits import (
    latent_size,
    layout,
    memory,
    own_sigmas,
    pixel_length,
    student_sigmas,
    teacher_sigmas,
)
from causvid.engine.rollout import rollout
from causvid.engine.solver import guided_velocity, solve
from causvid.engine.source import STRENGTH, Image, Video, load_image
from causvid.engine.state import Policy, StreamSettings
from causvid.film import Film, script
from causvid.loading.assemble import assemble
from causvid.loading.bundle import Bundle, save_bundle
from causvid.loading.spec import ModelSpec
from causvid.media import Fit, to_bytes
from causvid.models.autoencoder import pixel_frames
from causvid.models.transformer import TextKeys, Transformer
from causvid.stream import Stream, levels_below
from causvid.timeline import Shot, Timeline

Mode = Literal["student", "teacher"]


class Pipeline:
    """A whole model: `for frames in Pipeline.from_pretrained().stream("a swan", seconds=5): ...`."""

    def __init__(self, bundle: Bundle) -> None:
        """Take a bundle, whose parts are on one device."""
        self.bundle = bundle
        self.generation = bundle.generation

    @classmethod
    def from_pretrained(
        cls, model: str | Path | ModelSpec | None = None, *, device: torch.device | str = "cpu", **options: Any
    ) -> Self:
        """Load a model by path or by name on the Hugging Face Hub; the built-in one by default.

        Args:
            model: a bundle, a folder of diffusers with Wan 2.1, Wan 2.1's own, or a whole `ModelSpec`.
            options: the other fields of `ModelSpec`.

        Raises:
            ValueError: if a part is missing, damaged, or does not fit the others.
        """
        fields = dict(model) if isinstance(model, ModelSpec) else {"model": model}
        return cls(assemble(ModelSpec.of(**{**fields, **options}), device=device))

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
        return own_sigmas(self.generation)

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
        image: Image | None = None,
        after: Video | Tensor | None = None,
        source: Video | None = None,
        strength: float = STRENGTH,
        adapt: bool = False,
        fit: Fit = "cover",
        policy: Policy = "window",
        keep: float = 0.0,
    ) -> Iterator[Tensor]:
        """Make a video chunk by chunk; the student's is a `Stream`, the teacher's one chunk that is the whole clip.

        Args:
            seconds: length; None is without end for the student, and a clip for the teacher.
            seed: the same seed gives the same video.
            steps: denoising steps a chunk. Fewer than the model's own are chosen from them, more are spread evenly.
            sigmas: noise levels instead, from 1 down, without the final 0.
            window, sink: past latent frames kept, and first ones never forgotten; by default the model's own.
            height, width: pixels; by default the model's own, which is where it is at its best.
            image: image-to-video: the first frame, a file or uint8 `[H, W, 3]`.
            after: extension: a video, from whose end the stream goes on; only new frames are yielded. As much of it is
                seen as a training clip holds. Or the latents of a run, `[1, F, C, h, w]` or the file that holds them,
                all of which are taken up.
            source: video-to-video: a video of which every chunk is made anew under the prompt, at `strength` in (0, 1].
                With `adapt`, strength falls as the source moves more.
            fit: how an image or video of another shape is brought to size: "cover" crops, "contain" pads, "stretch".
            policy: "window" keeps the past as it was seen, "recompute" sees it anew before every chunk.
            keep: seconds that the stream can be rewound; each chunk of them costs a copy of the cache.

        A video is a file, `webcam`, or an iterable of frames, uint8 `[H, W, 3]`, at this model's own rate.

        Returns:
            An iterator of uint8 `[T, H, W, 3]` on the CPU.

        Raises:
            ValueError: if a value cannot be used; at once, not when the first chunk is asked for.
        """
        self._check_prompts([prompt], [seed])
        shape = self._latent_shape(height, width)
        if mode == "teacher":
            options = {"sigmas": sigmas, "window": window, "sink": sink, "image": image, "after": after}
            given = [name for name, value in {**options, "source": source}.items() if value is not None]
            if given or policy != "window" or keep:
                named = ", ".join(given) or "policy and keep"
                raise ValueError(f"{named} cannot be used with mode='teacher': it makes whole clips from noise")
            return self._teach([prompt], [seed], self._teacher(), shape, seconds=seconds, steps=steps)
        self._check_student(mode)
        if policy not in get_args(Policy):
            raise ValueError(f"policy={policy!r} is not one of {', '.join(get_args(Policy))}")
        if not 0 <= keep <= self.generation.max_seconds:
            raise ValueError(f"keep={keep:g} is not from 0 to {self.generation.max_seconds:g} seconds")
        length = None if seconds is None else pixel_length(self.generation, seconds)
        levels = student_sigmas(self.generation, steps, sigmas)
        if source is not None:
            levels_below(strength, levels)
        own, model, autoencoder = self.generation, self.bundle.transformer, self.bundle.autoencoder
        device = model.patch_in.weight.device
        beginning = begin(
            own, autoencoder, shape=shape, device=device, image=image, after=after, source=source, fit=fit
        )
        settings = StreamSettings(
            first=beginning.first,
            chunk=own.chunk,
            shape=shape,
            sigmas=levels,
            **memory(own, window, sink),
            policy=policy,
            length=length,
            keep=round(keep * self.fps),
            carry=own.carry,
            strength=strength,
            adapt=adapt,
        )
        stream = Stream(model, autoencoder, self._embed, prompt, settings, seed=seed, source=beginning.source)
        beginning.lay(stream)
        return stream

    def play(self, timeline: Timeline) -> Film:
        """Play a timeline: one video whose prompts change as it says.

        Raises:
            ValueError: if a value cannot be used; at once, not when the shot it belongs to is reached.
        """
        t = timeline
        pixel_length(self.generation, t.seconds)
        images = {}
        for number, shot in enumerate(t.shots):
            try:
                self._check_prompts([shot.prompt], [t.seed])
                if shot.image is not None:
                    images[shot.image] = load_image(shot.image, *self._pixel_size(t.height, t.width), fit=t.fit)
            except (ValueError, OSError) as error:
                if len(t.shots) == 1:
                    raise
                raise ValueError(f"shots.{number}: {error}") from None

        def start(shot: Shot, *, frames: int, seed: int) -> Stream:
            begins = shot is t.shots[0]
            stream = self.stream(
                shot.prompt,
                seconds=frames / self.fps,
                seed=seed,
                steps=t.steps,
                sigmas=t.sigmas,
                window=t.window,
                sink=t.sink,
                height=t.height,
                width=t.width,
                image=None if shot.image is None else images[shot.image],
                after=t.after if begins else None,
                source=t.source,
                strength=t.strength,
                adapt=t.adapt,
                fit=t.fit,
                policy=t.policy,
            )
            assert isinstance(stream, Stream)
            return stream

        return Film(timeline, start, fps=self.fps)

    def script(
        self,
        stream: Stream,
        *,
        image: str | None = None,
        after: str | None = None,
        source: str | None = None,
        fit: Fit = "cover",
    ) -> Timeline:
        """Return the timeline that plays a stream again, as far as it has come: its seed, its prompts, its settings.

        Args:
            image, after, source, fit: the file the stream began with, if it began with one.
        """
        factor = self.bundle.autoencoder.spatial_factor
        return script(stream, fps=self.fps, factor=factor, image=image, after=after, source=source, fit=fit)

    def generate_batch(
        self,
        prompts: Sequence[str],
        *,
        seeds: Sequence[int],
        seconds: float | None = None,
        mode: Mode = "student",
        steps: int | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Tensor:
        """Make a video of every prompt, uint8 `[B, T, H, W, 3]` on the CPU; one depends on its own seed alone.

        Args:
            seconds: length; by default that of a training clip, which is the longest that the teacher makes.
            mode: who makes them. steps: denoising steps a chunk (student) or a clip (teacher).
            progress: told after every chunk how many frames of each video there are, and will be.

        Raises:
            ValueError: if a value cannot be used.
        """
        self._check_prompts(prompts, seeds)
        if mode == "teacher":
            shape = self._latent_shape(None, None)
            clips = list(self._teach(prompts, seeds, self._teacher(), shape, seconds=seconds, steps=steps))
            if progress is not None:
                progress(len(clips[0]), len(clips[0]))
            return torch.stack(clips)
        self._check_student(mode)
        length = pixel_length(self.generation, self.clip_seconds if seconds is None else seconds)
        own, model = self.generation, self.bundle.transformer
        _, height, width = shape = self._latent_shape(None, None)
        with torch.inference_mode():
            made = rollout(
                model,
                self._encode(model, prompts),
                model.new_cache(batch=len(prompts), height=height, width=width, **memory(own, None, None)),
                chunks=layout(own, length),
                shape=(len(prompts), *shape),
                sigmas=student_sigmas(own, steps, None),
                generator=[torch.Generator().manual_seed(seed) for seed in seeds],
            )
            chunks = []
            for chunk in made:
                chunks.append(chunk)
                if progress is not None:
                    frames = pixel_frames(sum(part.shape[1] for part in chunks))
                    progress(min(frames, length), length)
            latents = torch.cat(chunks, dim=1)
            # One by one: a decoder's activations are larger than all latents together.
            return torch.stack([to_bytes(self.bundle.autoencoder.decode(one[None])[0, :length]) for one in latents])

    def _check_student(self, mode: str) -> None:
        if mode != "student":
            raise ValueError(f"mode={mode!r} is not 'student' or 'teacher'")
        if self.bundle.transformer is self.bundle.teacher:
            raise ValueError(
                "mode='student' needs a causal student: this model is a teacher, which sees whole clips; "
                "give student= (--student), or use mode='teacher' (--teacher)"
            )

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
        length = clip if seconds is None else pixel_length(self.generation, seconds)
        if length > clip:
            raise ValueError(f"seconds={seconds:g} is longer than the teacher's clip of {self.clip_seconds:g} seconds")
        levels = teacher_sigmas(own, steps)
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

    def _embed(self, prompt: str) -> Tensor:
        self._check_prompts([prompt], [0])
        weight = self.bundle.transformer.patch_in.weight
        return self.bundle.text_encoder.embed([prompt], weight.device).to(weight.dtype)

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

    def _latent_shape(self, height: int | None, width: int | None) -> tuple[int, int, int]:
        """Turn a size in pixels into (C, H, W) of a latent frame."""
        autoencoder, patch = self.bundle.autoencoder, self.bundle.transformer.config.patch
        rows, columns = latent_size(self.generation, height, width, factor=autoencoder.spatial_factor, patch=patch)
        return autoencoder.latent_channels, rows, columns

    def _pixel_size(self, height: int | None, width: int | None) -> tuple[int, int]:
        _, rows, columns = self._latent_shape(height, width)
        return rows * self.bundle.autoencoder.spatial_factor, columns * self.bundle.autoencoder.spatial_factor
