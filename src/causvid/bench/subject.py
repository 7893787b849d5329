"""What is measured: a session of a model with a full window, and the parts of its next chunk as works to time."""

import copy
import io
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from causvid.bench.timing import Work
from causvid.data.renders import corpus, world_of
from causvid.engine.rollout import commit_chunk, predict_x0
from causvid.loading.accelerate import accelerate
from causvid.loading.bundle import Bundle
from causvid.loading.spec import Acceleration
from causvid.media import VideoWriter
from causvid.models.text import TextEncoder, train_tokenizer
from causvid.models.tiny_autoencoder import TinyAutoencoder
from causvid.models.transformer import Transformer
from causvid.pipeline import Pipeline
from causvid.preset import load_preset
from causvid.stream import Stream

PROMPT = "a red swan over a lake"


def untrained(preset: str, *, how: Acceleration, device: torch.device) -> Pipeline:
    """Make a model of a preset's sizes with random weights, for its speed alone.

    Raises:
        ValueError: if the preset is none, or has no world, which its words come from, or no tiny autoencoder.
    """
    settings = load_preset(preset)
    generator = torch.Generator().manual_seed(0)
    tokenizer = train_tokenizer(corpus(world_of(settings)))
    transformer = Transformer(settings.transformer)
    transformer.initialise(generator)
    with torch.no_grad():
        transformer.head.weight.normal_(std=0.02, generator=generator)
    text = TextEncoder.create(settings.text, tokenizer, generator=generator)
    autoencoder = TinyAutoencoder(settings.autoencoder_sizes)
    for part in (transformer, text, autoencoder):
        part.to(device).eval().requires_grad_(False)
    accelerate(how, transformer, autoencoder)
    return Pipeline(Bundle(transformer, autoencoder, text, settings.generation, {}))


class Subject:
    """A stream whose window is full, and copies of its parts, so that a work can be repeated without moving it on."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline, self.stream = pipeline, pipeline.stream(PROMPT, seed=0)
        own = pipeline.generation
        for _ in range(2 + (own.window + own.sink) // own.chunk):
            self.frames = next(self.stream)
        session = self.stream.session
        self.model, self.cache = session_model(self.stream), session.cache
        self.text, self.decoder = session.point.text, session.point.decoder
        assert self.stream.latent is not None
        self.latents: Tensor = self.stream.latent

    def stages(self) -> dict[str, Work]:
        """Return the parts of a chunk as works, by name."""
        text, autoencoder = self.text, self.pipeline.bundle.autoencoder
        assert text is not None
        scratch = self.cache.like()
        scratch.restore(self.cache.state())
        full = scratch.state()

        def clean() -> None:
            commit_chunk(self.model, self.latents, text, scratch)

        def step(sigma: float) -> Work:
            return lambda: predict_x0(self.model, self.latents, sigma, text, self.cache)

        works: dict[str, Work] = {"text": self._encode_text}
        works |= {f"step {number}": step(sigma) for number, sigma in enumerate(self.pipeline.sigmas, 1)}
        works["clean pass"] = clean
        works["decode"] = lambda: autoencoder.decode_chunk(self.latents, self.decoder)
        works["file"] = self._write
        scratch.restore(full)
        return {name: _without_gradients(work) for name, work in works.items()}

    def next(self) -> object:
        """Make the next chunk, as a user asks for it."""
        return next(self.stream)

    def _encode_text(self) -> object:
        embedding = self.pipeline.bundle.text_encoder.embed([PROMPT], self.latents.device)
        return self.model.encode_text(embedding)

    def _write(self) -> None:
        array = np.asarray(self.frames.cpu())
        with VideoWriter(io.BytesIO(), fps=self.pipeline.fps, height=array.shape[1], width=array.shape[2]) as writer:
            writer.write(array)


def session_model(stream: Stream) -> Transformer:
    """Return the transformer that makes a stream's chunks."""
    return stream.engine.transformer


def resized(pipeline: Pipeline, **changes: int) -> Pipeline:
    """Return the model with another window or chunk; its weights are shared."""
    bundle = copy.copy(pipeline.bundle)
    return Pipeline(replace(bundle, generation=pipeline.generation.model_copy(update=changes)))


def _without_gradients(work: Work) -> Work:
    def run() -> object:
        with torch.inference_mode():
            return work()

    return run
