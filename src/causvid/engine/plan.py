"""How much memory a model needs, before any of it is loaded: for every part, and at every moment.

Letters: B batch (1 here), F latent frames, C h w a latent frame, M text tokens.

A part's memory is counted from its sizes, a moment's by running its computation on tensors without contents.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from causvid.config import AutoencoderConfig, GenerationConfig, TransformerConfig
from causvid.engine.memory import peak_bytes, weight_bytes
from causvid.files.checkpoint import read_json
from causvid.files.hub import find
from causvid.loading.assemble import find_generation
from causvid.loading.autoencoders import TINY
from causvid.loading.layout import find_parts
from causvid.loading.spec import ModelSpec, Placement
from causvid.loading.text import read_umt5_config
from causvid.loading.weights import sniff, working_dtype
from causvid.models.text import WAN_TOKENS, umt5_config
from causvid.models.tiny_autoencoder import TinyAutoencoder
from causvid.models.transformer import TextKeys, Transformer
from causvid.models.umt5 import UMT5Config, UMT5Encoder
from causvid.models.wan_autoencoder import WanAutoencoder
from causvid.preset import Preset, load_preset
from causvid.seeding import without_contents

_UMT5_WORDS = 256_384
_WORLD_WORDS = 512
"""More than a world of this package has."""


@dataclass(frozen=True)
class Choice:
    """What decides the memory of a given model: precision, history, frame size, and where text is embedded."""

    dtype: torch.dtype
    window: int
    sink: int
    height: int
    width: int
    text_encoder: Placement = "keep"


@dataclass(frozen=True)
class Plan:
    """Bytes in the memory of the device that runs the transformer.

    parts: what stays while a stream lives. moments: what is needed besides, at one time or another.
    """

    parts: Mapping[str, int]
    moments: Mapping[str, int]

    @property
    def peak(self) -> int:
        """The most that is needed at any time."""
        return sum(self.parts.values()) + max(self.moments.values())


@dataclass(frozen=True)
class Sketch:
    """A model known by its sizes alone: its parts are modules on the meta device, whose weights take no memory.

    tokens: M. dtype: what its weights load in, None if there are none yet.
    """

    config: TransformerConfig
    autoencoder: TinyAutoencoder | WanAutoencoder
    text: nn.Module
    tokens: int
    generation: GenerationConfig
    dtype: torch.dtype | None = None

    def plan(self, choice: Choice, *, separate: bool = True, chunks: int | None = None) -> Plan:
        """Count what a stream needs.

        Args:
            separate: whether the device has separate memory, so that a text encoder on the CPU takes none of it.
            chunks: how many are generated; by default enough to fill window and sink.

        Raises:
            ValueError: if there is no such frame, or no history is kept.
        """
        if min(choice.window, choice.sink) < 0 or choice.window + choice.sink < 1:
            raise ValueError(f"window={choice.window} and sink={choice.sink}: expected at least one latent frame")
        capacity = choice.sink + choice.window
        first, chunk = self.generation.first, self.generation.chunk
        # The last pass of a stream of so many chunks sees all chunks before it.
        seen = capacity if chunks is None else min(capacity, first + (chunks - 2) * chunk if chunks > 1 else 0)
        size = first if chunks == 1 else chunk
        away = choice.text_encoder == "cpu" and separate
        released = choice.text_encoder == "release"
        text = 0 if away else weight_bytes(self.text, choice.dtype)
        tokens = self._latent(1, choice)[0, 0, 0].numel() // self.config.patch**2
        # A cache has slots and a tail for the chunk in work, and the keys of the sink once more, unrotated.
        held = 2 * (capacity + max(first, chunk)) + choice.sink
        keys = self.config.dim * self.config.layers * choice.dtype.itemsize
        with without_contents():
            transformer = weight_bytes(Transformer(self.config), choice.dtype)
        memory, decoding = self._decoder(choice, size, first_only=chunks == 1)
        encoder, ids = self.text.to(choice.dtype), torch.empty(1, self.tokens, dtype=torch.int64, device="meta")
        embedding = 0 if away else peak_bytes(lambda: encoder(ids, ids.bool()))
        return Plan(
            parts={
                "transformer": transformer,
                "text encoder": 0 if released else text,
                "autoencoder": weight_bytes(self.autoencoder, choice.dtype),
                "keys and values of the history": held * tokens * keys,
                "keys and values of the prompt": 2 * self.tokens * keys,
                "state of the decoder": memory,
            },
            moments={
                "embedding the prompt": embedding + (text if released else 0),
                "a pass of the transformer": self._pass(choice, seen, size),
                "decoding a chunk": decoding,
            },
        )

    def _latent(self, frames: int, choice: Choice) -> Tensor:
        edge = self.autoencoder.spatial_factor * self.config.patch
        for name, side in (("height", choice.height), ("width", choice.width)):
            if side < edge or side % edge:
                raise ValueError(f"{name}={side} is not a multiple of {edge}")
        factor = self.autoencoder.spatial_factor
        sides = choice.height // factor, choice.width // factor
        return torch.empty(1, frames, self.autoencoder.latent_channels, *sides, device="meta")

    def _pass(self, choice: Choice, seen: int, size: int) -> int:
        """Run a denoising pass and a commit through one block: each frees what it took before the next."""
        latent = self._latent(size, choice)
        with without_contents():
            model = Transformer(self.config.model_copy(update={"layers": 1})).to(choice.dtype)
            text = torch.empty(1, self.tokens, self.config.heads, self.config.head_dim, dtype=choice.dtype)
            levels = torch.empty(1, size)
        keys = TextKeys((text,), (text,))
        rows, columns = latent.shape[3:]
        cache = model.new_cache(batch=1, height=rows, width=columns, window=choice.window, sink=choice.sink, chunk=size)
        # Once all is full, one frame more: in a long stream the sink moves at every commit.
        for _ in range(seen + (seen == choice.sink + choice.window)):
            cache.commit(1)
        return max(
            peak_bytes(lambda: model(latent, levels, keys, cache=cache)),
            peak_bytes(lambda: model(latent, levels, keys, cache=cache, commit=True)),
        )

    def _decoder(self, choice: Choice, size: int, *, first_only: bool) -> tuple[int, int]:
        """Return what the decoder keeps between chunks, and what it takes to decode one."""
        coder = self.autoencoder.to(choice.dtype)
        first, later = self._latent(self.generation.first, choice), self._latent(size, choice)
        if first_only:
            return 0, peak_bytes(lambda: coder.decode_chunk(first, None))
        with torch.inference_mode():
            _, state = coder.decode_chunk(first, None)
        memory = sum(memory.untyped_storage().nbytes() for memory in state.memories)
        return memory, peak_bytes(lambda: coder.decode_chunk(later, state))


def sketch_preset(preset: Preset, *, tiny: bool = False) -> Sketch:
    """Describe the model of a preset; with `tiny`, `taew2_1` replaces its autoencoder."""
    own = preset.autoencoder
    words = _WORLD_WORDS if preset.world else _UMT5_WORDS
    return Sketch(
        config=preset.transformer,
        autoencoder=_autoencoder({} if own is None else {"_class_name": TINY, **own.model_dump()}, tiny=tiny),
        text=_text_encoder(umt5_config(preset.text, vocabulary=words)),
        tokens=preset.text.max_tokens,
        generation=preset.generation,
    )


def sketch_files(spec: ModelSpec) -> Sketch:
    """Describe a model from the headers and settings of its files, which must be on this machine.

    A tiny autoencoder is taken for `taew2_1`, and its file is not looked for. A LoRA, once merged, takes nothing.

    Raises:
        ValueError: if a file is missing or damaged.
    """
    layout = find_parts(spec, fetch=False)
    weights = layout.transformer if spec.student is None else find(spec.student, what="student", fetch=False)
    found = sniff(weights)
    coder, encoder = layout.autoencoder, layout.text_encoder
    tiny = spec.tiny_autoencoder is not None
    wan_text = umt5_config(load_preset("wan-14b").text, vocabulary=_UMT5_WORDS)
    length = read_json(layout.tokenizer / "tokenizer_config.json").get("model_max_length") or WAN_TOKENS
    return Sketch(
        config=found.config,
        autoencoder=_autoencoder(read_json(coder / "config.json") if coder.is_dir() and not tiny else {}, tiny=tiny),
        text=_text_encoder(read_umt5_config(encoder) if encoder.is_dir() else wan_text),
        tokens=min(int(length), WAN_TOKENS),
        generation=find_generation(spec, layout, found.config)[0],
        dtype=torch.float32 if layout.kind == "bundle" else working_dtype(found.dtype),
    )


def _autoencoder(settings: Mapping[str, Any], *, tiny: bool) -> TinyAutoencoder | WanAutoencoder:
    """Make an autoencoder without contents: taew2_1's, that of a config.json, or else Wan's."""
    sizes = {name: value for name, value in settings.items() if not name.startswith("_")}
    with without_contents():
        if tiny:
            return TinyAutoencoder(AutoencoderConfig()).eval()
        if settings.get("_class_name") == TINY:
            return TinyAutoencoder(AutoencoderConfig.model_validate(sizes)).eval()
        from diffusers import AutoencoderKLWan

        return WanAutoencoder(AutoencoderKLWan.from_config(sizes)).eval()


def _text_encoder(config: UMT5Config) -> UMT5Encoder:
    """Make a text encoder without contents."""
    with without_contents():
        return UMT5Encoder(config).eval()
