"""What a model will need, before any of it is loaded: the memory of every part, and of every moment.

Letters: B batch (1 here), F latent frames, C h w a latent frame, M text tokens.

A part's memory is counted from its sizes, a moment's by running its computation on tensors without contents.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn
from transformers import UMT5Config, UMT5EncoderModel

from causvid.config import AutoencoderConfig, GenerationConfig, TransformerConfig
from causvid.loading.bundle import read_settings
from causvid.files.checkpoint import open_checkpoint, read_json
from causvid.loading.families import choose_generation
from causvid.files.hub import find
from causvid.loading.layout import find_layout
from causvid.engine.tally import peak_bytes, weight_bytes
from causvid.models.text import WAN_TOKENS, Placement
from causvid.models.tiny_autoencoder import TinyAutoencoder
from causvid.models.transformer import TextKeys, Transformer
from causvid.models.wan_autoencoder import WanAutoencoder
from causvid.loading.weights import sniff, transformer_place, working_dtype
from causvid.preset import Preset

_UMT5_XXL = {"d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24, "num_heads": 64, "vocab_size": 256_384}
_WORLD_WORDS = 512
"""More than a world of this package has."""


@dataclass(frozen=True)
class Choice:
    """What can be chosen without another model: precision, what is remembered, the frame, where text is embedded."""

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
class Option:
    """A choice, with the model's own autoencoder or a tiny one, and the peak of its plan in bytes."""

    choice: Choice
    tiny: bool
    peak: int


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
    _found: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)

    def plan(self, choice: Choice, *, separate: bool = True, chunks: int | None = None) -> Plan:
        """Say what a stream needs.

        Args:
            choice: what is chosen.
            separate: whether the device has a memory of its own, so that a text encoder on the CPU takes none of it.
            chunks: how many are made; by default enough to fill window and sink.

        Raises:
            ValueError: if there is no such frame, or nothing of the past is kept.
        """
        self._check(choice)
        kept = choice.sink + choice.window
        first, chunk = self.generation.first, self.generation.chunk
        # The last pass of a stream of so many chunks sees all chunks before its own.
        seen = kept if chunks is None else min(kept, first + (chunks - 2) * chunk if chunks > 1 else 0)
        size = first if chunks == 1 else chunk
        away = choice.text_encoder == "cpu" and separate
        text = weight_bytes(self.text, choice.dtype)
        pair = 2 * self.config.dim * self.config.layers * choice.dtype.itemsize
        frame = (choice.dtype, choice.height, choice.width)
        memory, decoding = self._once((size, chunks == 1, *frame), lambda: self._decoder(choice, size, chunks == 1))
        embedding = 0 if away else self._once((choice.dtype,), lambda: self._embedding(choice.dtype))
        seeing = (seen, size, choice.window, choice.sink, *frame)
        return Plan(
            parts={
                "transformer": weight_bytes(self._transformer, choice.dtype),
                "text encoder": 0 if away or choice.text_encoder == "release" else text,
                "autoencoder": weight_bytes(self.autoencoder, choice.dtype),
                "keys and values of the past": kept * self._cells(choice) * pair,
                "keys and values of the prompt": self.tokens * pair,
                "memory of the decoder": memory,
            },
            moments={
                "embedding the prompt": embedding + (text if choice.text_encoder == "release" else 0),
                "a pass of the transformer": self._once(seeing, lambda: self._pass(choice, seen, size)),
                "decoding a chunk": decoding,
            },
        )

    def _check(self, choice: Choice) -> None:
        edge = self.autoencoder.spatial_factor * self.config.patch
        for name, side in (("height", choice.height), ("width", choice.width)):
            if side < edge or side % edge:
                raise ValueError(f"{name}={side} is not a multiple of {edge}")
        if min(choice.window, choice.sink) < 0 or choice.window + choice.sink < 1:
            raise ValueError(f"window={choice.window} and sink={choice.sink}: at least one past latent frame is kept")

    def _once(self, key: tuple[Any, ...], count: Callable[[], Any]) -> Any:
        """Return what `count` found when it was first called for `key`."""
        if key not in self._found:
            self._found[key] = count()
        return self._found[key]

    @cached_property
    def _transformer(self) -> Transformer:
        with torch.device("meta"):
            return Transformer(self.config)

    def _cells(self, choice: Choice) -> int:
        """Return the tokens of a latent frame."""
        edge = self.autoencoder.spatial_factor * self.config.patch
        return (choice.height // edge) * (choice.width // edge)

    def _latent(self, frames: int, choice: Choice) -> Tensor:
        factor = self.autoencoder.spatial_factor
        sides = choice.height // factor, choice.width // factor
        return torch.empty(1, frames, self.autoencoder.latent_channels, *sides, device="meta")

    def _pass(self, choice: Choice, seen: int, size: int) -> int:
        """Run a denoising pass and a commit through one block: each gives back what it took before the next."""
        latent = self._latent(size, choice)
        with torch.device("meta"):
            model = Transformer(self.config.model_copy(update={"layers": 1})).to(choice.dtype)
            text = torch.empty(1, self.tokens, self.config.heads, self.config.head_dim, dtype=choice.dtype)
            levels = torch.empty(1, size)
        keys = TextKeys((text,), (text,))
        rows, columns = latent.shape[3:]
        cache = model.new_cache(batch=1, height=rows, width=columns, window=choice.window, sink=choice.sink)
        if seen:
            # Once all is full, one frame more: in a long stream the sink is moved whenever it is read.
            cache.advance(seen + (seen == choice.sink + choice.window))
        return max(
            peak_bytes(lambda: model(latent, levels, keys, cache=cache)),
            peak_bytes(lambda: model(latent, levels, keys, cache=cache, commit=True)),
        )

    def _decoder(self, choice: Choice, size: int, first_only: bool) -> tuple[int, int]:
        """Return what the decoder remembers between chunks, and what it takes to decode one."""
        coder = self.autoencoder.to(choice.dtype)
        first, later = self._latent(self.generation.first, choice), self._latent(size, choice)
        if first_only:
            return 0, peak_bytes(lambda: coder.decode_chunk(first, None))
        with torch.inference_mode():
            _, state = coder.decode_chunk(first, None)
        memory = sum(memory.untyped_storage().nbytes() for memory in state.memories)
        return memory, peak_bytes(lambda: coder.decode_chunk(later, state))

    def _embedding(self, dtype: torch.dtype) -> int:
        """Run the text encoder on one prompt."""
        encoder = self.text.to(dtype)
        ids = torch.empty(1, self.tokens, dtype=torch.int64, device="meta")
        return peak_bytes(lambda: encoder(input_ids=ids))


def list_options(
    sketch: Sketch, tiny: Sketch | None, choice: Choice, *, dtypes: Sequence[torch.dtype], windows: Sequence[int]
) -> list[Option]:
    """Plan every way to run a model, the one that changes least of what it makes first.

    Where text is embedded changes nothing, a tiny autoencoder little, a shorter window more.

    Args:
        tiny: the same model with a tiny autoencoder; None if that is no option. choice: all that is not varied.
    """
    return [
        Option(varied, tiny=drawn is tiny, peak=drawn.plan(varied).peak)
        for dtype in dtypes
        for window in windows
        for drawn in filter(None, (sketch, tiny))
        for placement in get_args(Placement)
        for varied in [replace(choice, dtype=dtype, window=window, text_encoder=placement)]
    ]


def sketch_preset(preset: Preset, *, tiny: bool = False) -> Sketch:
    """Describe the model of a preset; `tiny` as in `sketch_files`."""
    text = preset.text
    sizes = {
        "d_model": text.dim,
        "d_kv": text.head_dim,
        "d_ff": text.ffn_dim,
        "num_layers": text.layers,
        "num_heads": text.heads,
        "vocab_size": _WORLD_WORDS if preset.world else _UMT5_XXL["vocab_size"],
    }
    own = preset.autoencoder
    tiny_settings = None if own is None else {"_class_name": "TinyAutoencoder", **own.model_dump()}
    return Sketch(
        config=preset.transformer,
        autoencoder=_autoencoder(tiny_settings or {}, tiny=tiny),
        text=_text_encoder(sizes),
        tokens=text.max_tokens,
        generation=preset.generation,
    )


def sketch_files(
    name: str | Path | None = None, *, student: str | Path | None = None, tiny: bool = False, preset: str | None = None
) -> Sketch:
    """Describe a model from the headers and settings of its files, which must be on this machine.

    Args:
        name, student, preset: as `assemble` has them. tiny: whether `taew2_1` replaces its autoencoder.

    Raises:
        ValueError: if a file is missing or damaged.
    """
    layout = find_layout(name, fetch=False)
    weights = layout.transformer if student is None else find(student, what="student", fetch=False)
    found = sniff(open_checkpoint(transformer_place(weights)))
    own = read_settings(layout.folder)[0] if layout.kind == "bundle" else None
    if own is not None and student is None and preset is None:
        generation = own
    else:
        told = student or name or layout.folder
        _, generation = choose_generation(preset, name=told, config=found.config, own=own)
    coder, text = layout.autoencoder, layout.text_encoder
    length = read_json(layout.tokenizer / "tokenizer_config.json").get("model_max_length") or WAN_TOKENS
    return Sketch(
        config=found.config,
        autoencoder=_autoencoder(read_json(coder / "config.json") if coder.is_dir() and not tiny else {}, tiny=tiny),
        text=_text_encoder(read_json(text / "config.json") if text.is_dir() else _UMT5_XXL),
        tokens=min(int(length), WAN_TOKENS),
        generation=generation,
        dtype=torch.float32 if own is not None else working_dtype(found.dtype),
    )


def _autoencoder(settings: Mapping[str, Any], *, tiny: bool) -> TinyAutoencoder | WanAutoencoder:
    """Make an autoencoder without contents: taew2_1's, that of a config.json, or else Wan's."""
    sizes = {name: value for name, value in settings.items() if not name.startswith("_")}
    with torch.device("meta"):
        if tiny:
            return TinyAutoencoder(AutoencoderConfig()).eval()
        if settings.get("_class_name") == "TinyAutoencoder":
            return TinyAutoencoder(AutoencoderConfig.model_validate(sizes)).eval()
        from diffusers import AutoencoderKLWan

        return WanAutoencoder(AutoencoderKLWan.from_config(sizes)).eval()


def _text_encoder(settings: Mapping[str, Any]) -> nn.Module:
    """Make a text encoder without contents."""
    with torch.device("meta"):
        return UMT5EncoderModel(UMT5Config(**settings)).eval()
