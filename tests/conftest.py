"""Tests run offline; those marked `gpu` are skipped where there is no CUDA device."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
# Of two threads on two busy cores, each waits for the other at every small operation.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from causvid.config import AutoencoderConfig, GenerationConfig, TextConfig, TransformerConfig
from causvid.evaluate.classifier import AttributeClassifier
from causvid.loading.bundle import Bundle
from causvid.models.text import TextEncoder, train_tokenizer
from causvid.models.tiny_autoencoder import TinyAutoencoder
from causvid.models.transformer import Transformer
from causvid.models.wan_autoencoder import WanAutoencoder
from causvid.pipeline import Pipeline
from causvid.worlds.storybook import ATTRIBUTES, NANO, words

PROMPTS = ("a red swan over the snow", "a blue mammoth")
SETTINGS = {
    "height": 32,
    "width": 48,
    "fps": 8,
    "clip_frames": 7,
    "first": 1,
    "chunk": 3,
    "window": 6,
    "sink": 1,
    "shift": 3.0,
    "timesteps": (1000, 750, 500),
    "teacher_steps": 3,
    "guidance": 2.0,
    "max_seconds": 60,
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


def small_pipeline(*, teacher: bool = True, wan: bool = False, **settings: Any) -> Pipeline:
    """A random model of 32 x 48 pixels; `wan` has Wan's own autoencoder and its layout of chunks."""
    generator = torch.Generator().manual_seed(0)
    uniform = {"first": 3, "clip_frames": 9} if wan else {}
    generation = GenerationConfig.model_validate({**SETTINGS, **uniform, **settings})
    autoencoder = _wan_autoencoder() if wan else _tiny_autoencoder(generator)
    channels = autoencoder.latent_channels
    sizes = TransformerConfig(
        dim=24, heads=2, layers=2, ffn_dim=32, text_dim=8, in_channels=channels, out_channels=channels
    )
    text = TextConfig(dim=8, layers=1, heads=2, head_dim=4, ffn_dim=12, max_tokens=9)

    def transformer() -> Transformer:
        model = Transformer(sizes)
        model.initialise(generator)
        with torch.no_grad():
            model.head.weight.normal_(std=0.3, generator=generator)
        return model.eval()

    encoder = TextEncoder.create(text, train_tokenizer(PROMPTS), generator=generator).eval()
    return Pipeline(
        Bundle(transformer(), autoencoder, encoder, generation, {}, teacher=transformer() if teacher else None)
    )


def _tiny_autoencoder(generator: torch.Generator) -> TinyAutoencoder:
    shape = AutoencoderConfig(
        latent_channels=4, encoder_widths=(4, 4, 4, 4), decoder_widths=(8, 8, 8, 8), blocks=1, padding="first"
    )
    autoencoder = TinyAutoencoder(shape).eval()
    with torch.no_grad():
        for p in autoencoder.parameters():
            p.normal_(std=0.25, generator=generator)
        autoencoder.decoder[-1].bias.fill_(0.5)
    return autoencoder


def _wan_autoencoder() -> WanAutoencoder:
    from diffusers import AutoencoderKLWan

    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        return WanAutoencoder(AutoencoderKLWan(base_dim=4).eval().requires_grad_(False))


@pytest.fixture(scope="session")
def make() -> Callable[..., Pipeline]:
    return small_pipeline


@pytest.fixture(scope="session")
def toy_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model of the Storybook world with a teacher and a classifier, as a bundle; clips of 13 frames."""
    folder = tmp_path_factory.mktemp("toy")
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        attributes = {name: ATTRIBUTES[name] for name in ("colour", "subject", "place", "motion")}
        AttributeClassifier(attributes, width=4).save(folder / "classifier")
    text = TextConfig(dim=8, layers=1, heads=2, head_dim=4, ffn_dim=12, max_tokens=40)
    encoder = TextEncoder.create(text, train_tokenizer(words(NANO)), generator=torch.Generator().manual_seed(0)).eval()
    bundle = small_pipeline(timesteps=(1000,), teacher_steps=1, clip_frames=4).bundle
    made = {"world": "nano", "preset": "toy"}
    bundle = replace(bundle, text_encoder=encoder, classifier=folder / "classifier", provenance=made)
    Pipeline(bundle).save_pretrained(folder / "bundle")
    return folder / "bundle"


@pytest.fixture(scope="session")
def small() -> Pipeline:
    return small_pipeline()


@pytest.fixture(scope="session")
def small_wan() -> Pipeline:
    return small_pipeline(teacher=False, wan=True)
