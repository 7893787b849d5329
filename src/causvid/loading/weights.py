"""Read the transformer from every published format, recognised by names and shapes."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from causvid.config import TransformerConfig
from causvid.files.checkpoint import Checkpoint, Entry, open_checkpoint
from causvid.loading.names import (
    CONVOLUTION,
    Spelling,
    bare_name,
    common_start,
    compare_shapes,
    few,
    foreign_name,
    foreign_shapes,
    recognise,
    shapes,
    translate,
)
from causvid.loading.wan_config import CONFIG, read_config
from causvid.models.transformer import Transformer
from causvid.seeding import without_contents

SECTIONS = ("generator_ema", "generator", "state_dict", "model", "")
"""Where a file of several state dicts has the weights to generate with, the first one first."""
HEAD_DIM = 128
"""Channels of a head in every published model."""

_SPELLINGS: tuple[Spelling, ...] = ("wan", "diffusers", "ours")
_EIGHT_BIT = (torch.float8_e4m3fn, torch.float8_e5m2, torch.int8)
# Spellings of the factor that 8-bit weights were divided by, and what else comes with them. `weight_scale_inv` is the
# same factor in spite of its name; bitsandbytes' is the largest value of a row, which int8 has as 127.
_ROW_MAXIMA = ".SCB"
_SCALES = (".scale_weight", ".weight_scale", ".weight_scale_inv", _ROW_MAXIMA)
_BESIDE_SCALES = (".scale_input", ".input_scale", ".comfy_quant", "scaled_fp8", ".weight_format")
BLOCK = 128
"""Rows and columns that share a factor where the factors of a matrix are a matrix."""
_TABLES = re.compile(r"(.*\.)?(freqs|freqs_(cos|sin|cis)|inv_freq)")
"""Tables of rotary angles, which follow from the sizes."""


@dataclass(frozen=True)
class Sniffed:
    """A transformer found in a checkpoint.

    names: our name → the file's. scales: our name → the file's name of the factor of 8-bit weights.
    dtype: of most values. mismatch: what does not fit `config`, in the names of `spelling`.
    """

    checkpoint: Checkpoint
    spelling: Spelling
    section: str
    names: Mapping[str, str]
    config: TransformerConfig
    dtype: torch.dtype
    mismatch: str
    scales: Mapping[str, str]

    def check(self) -> None:
        """Raise a `ValueError` that names what is missing, unknown or of another shape, if anything is."""
        if self.mismatch:
            raise ValueError(f"{_within(self.checkpoint, self.section)}: the weights do not fit: {self.mismatch}")

    def read(
        self,
        names: Sequence[str] | None = None,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str = "cpu",
    ) -> Iterator[tuple[str, Tensor]]:
        """Yield all parameters or some of them, one at a time, by our names and in our shapes.

        dtype: by default each parameter's own; bfloat16 for 8-bit ones with a factor.

        Raises:
            ValueError: if the weights do not fit, before the first is read.
        """
        self.check()
        own = shapes(self.config)
        wanted = {self.names[name]: name for name in (own if names is None else names)}

        def stored(raw: Sequence[str], dtype: torch.dtype | None) -> Iterator[tuple[str, Tensor]]:
            return self.checkpoint.read(raw, section=self.section, dtype=dtype, device=device)

        scales = dict(stored(list(self.scales.values()), torch.float32))
        for raw, tensor in stored(list(wanted), dtype):
            name = wanted[raw]
            if name in self.scales:
                factor = _spread(scales[self.scales[name]], tensor.shape)
                factor = factor / 127 if self.scales[name].endswith(_ROW_MAXIMA) else factor
                tensor = tensor.to(working_dtype(tensor.dtype)).mul_(factor)
            yield name, tensor.reshape(own[name])


def load_transformer(
    path: Path,
    *,
    section: str | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
) -> Transformer:
    """Read a transformer from a file or folder of any published format, in evaluation mode.

    Args:
        path: a file, an index of shards, a folder of one of these, or of a whole pipeline.
        section: which state dict of several; by default the average of the weights, or else the generator.
        dtype: of the weights; by default the file's, and bfloat16 for 8-bit weights.

    Raises:
        ValueError: if a file is missing or damaged, is no Wan transformer, or does not fit its sizes.
    """
    found = sniff(path, section=section)
    state = dict(found.read(dtype=dtype or working_dtype(found.dtype), device=device))
    return build_transformer(found.config, state)


def build_transformer(config: TransformerConfig, state: Mapping[str, Tensor]) -> Transformer:
    """Make a transformer that uses the tensors of `state`, without allocating others, in evaluation mode."""
    with without_contents():
        model = Transformer(config)
    model.load_state_dict(state, assign=True)
    return model.eval()


def working_dtype(stored: torch.dtype) -> torch.dtype:
    """Return the type to compute in for weights stored as `stored`: 8-bit ones are for storage alone."""
    return torch.bfloat16 if stored in _EIGHT_BIT else stored


def sniff(source: Path | Checkpoint, *, section: str | None = None) -> Sniffed:
    """Find the transformer in a file, a folder or a pipeline's folder; what does not fit is listed, not raised.

    Sizes come from a `config.json` beside it, or else from its shapes, in which the number of heads leaves no trace:
    heads then have 128 channels.

    Raises:
        ValueError: if it holds no Wan transformer, one of another architecture, or its sizes are ambiguous.
    """
    if isinstance(source, Path):
        whole = (source / "model_index.json").is_file()
        checkpoint = open_checkpoint(source / "transformer" if whole else source)
    else:
        checkpoint = source
    section = choose_section(checkpoint, section)
    entries = checkpoint.sections[section]
    raw = bare_names(checkpoint, section)
    kind = recognise(raw)
    if kind.role != "transformer":
        raise ValueError(
            f"{_within(checkpoint, section)} is {kind.what}, expected a Wan 2.1 text-to-video transformer "
            f"(it holds {few(list(entries), 2)})"
        )
    spelling = max(_SPELLINGS, key=lambda it: sum(translate(name, it, "ours") is not None for name in raw))
    scales = {f"{name.removesuffix(end)}.weight": name for name in raw for end in _SCALES if name.endswith(end)}
    beside = {name for name in raw if name.endswith(_BESIDE_SCALES)}.union(scales.values())
    found = {name: entries[raw[name]] for name in raw if name not in beside and not _TABLES.fullmatch(name)}
    for name, entry in found.items():
        factors = entries[raw[scales[name]]].shape if name in scales else None
        problem = _problem(entry, factors, scaled=bool(beside))
        if problem:
            raise ValueError(f"{checkpoint.path}: {raw[name]} {problem}")

    config = read_config(checkpoint.path.parent) or _infer_config(checkpoint, found, spelling)
    _refuse_variants(checkpoint, config)
    foreign = {name: foreign_name(name, spelling) for name in shapes(config)}
    return Sniffed(
        checkpoint=checkpoint,
        spelling=spelling,
        section=section,
        names={name: raw[theirs] for name, theirs in foreign.items() if theirs in found},
        config=config,
        dtype=max(found.values(), key=lambda entry: entry.bytes).dtype,
        mismatch=compare_shapes(found, foreign_shapes(config, spelling)),
        scales={name: raw[scales[theirs]] for name, theirs in foreign.items() if theirs in scales},
    )


def choose_section(checkpoint: Checkpoint, section: str | None) -> str:
    """Return the section asked for, or else the one to generate with.

    Raises:
        ValueError: if there is no such section, or no telling which.
    """
    there = list(checkpoint.sections)
    known = ", ".join(name or '""' for name in there)
    if section is not None:
        if section not in there:
            raise ValueError(f"section={section} is not in {checkpoint.path}, which has {known}")
        return section
    choice = next((name for name in SECTIONS if name in there), there[0] if len(there) == 1 else None)
    if choice is None:
        raise ValueError(f"{checkpoint.path} has the sections {known}: choose one with section=")
    return choice


def bare_names(checkpoint: Checkpoint, section: str) -> dict[str, str]:
    """Return bare name → the file's, for all names of a section.

    Raises:
        ValueError: if two names differ by wrappers only.
    """
    raw: dict[str, str] = {}
    start = common_start(bare_name(name) for name in checkpoint.sections[section])
    for name in checkpoint.sections[section]:
        other = raw.setdefault(bare_name(name).removeprefix(start), name)
        if other != name:
            raise ValueError(f"{_within(checkpoint, section)} has both {other} and {name}, expected one of them")
    return raw


def _within(checkpoint: Checkpoint, section: str) -> str:
    return f"{checkpoint.path} (section {section})" if section else str(checkpoint.path)


def _problem(entry: Entry, factors: torch.Size | None, *, scaled: bool) -> str | None:
    """Say why a weight with that many factors cannot be used: `scaled` ones of 8 bits have one, or one for each row."""
    kind = str(entry.dtype).removeprefix("torch.")
    if entry.dtype == torch.int8 and factors is None:
        return f"is int8, but its factor is missing, expected {_SCALES[1]} beside it"
    if not entry.dtype.is_floating_point and entry.dtype != torch.int8:
        return f"is {kind}, expected floating point"
    if scaled and factors is None and entry.dtype in _EIGHT_BIT:
        return f"is {kind} and scaled, but its factor is missing, expected {_SCALES[0]} beside it"
    if factors is None or _by_row(factors, entry.shape):
        return None
    if len(factors) == len(entry.shape) == 2 and all(map(_edge, entry.shape, factors)):
        return None
    return f"has {factors.numel()} factors, expected one, or one for each row or block"


def _by_row(factors: torch.Size, shape: torch.Size) -> bool:
    """Tell whether there is one factor, or one for each row."""
    return factors.numel() == 1 or (factors.numel() == shape[0] == factors[0] if shape else False)


def _edge(size: int, count: int) -> int:
    """Return how many values share each of `count` factors along an axis of `size`; 0 if there is no telling."""
    if count == -(-size // BLOCK):
        return BLOCK
    return size // count if count and size % count == 0 else 0


def _spread(factors: Tensor, shape: torch.Size) -> Tensor:
    """Return the factors of a weight of that shape, to multiply it by, from one, one a row, or one a block."""
    if _by_row(factors.shape, shape):
        return factors.reshape(-1, *[1] * (len(shape) - 1))
    for axis, size in enumerate(shape):
        repeated = factors.repeat_interleave(_edge(size, factors.shape[axis]), dim=axis)
        factors = repeated.narrow(axis, 0, size)
    return factors


def _infer_config(checkpoint: Checkpoint, found: Mapping[str, Entry], spelling: Spelling) -> TransformerConfig:
    def shape(name: str) -> torch.Size:
        theirs = foreign_name(name, spelling)
        if theirs not in found:
            raise ValueError(f"{checkpoint.path}: {theirs} is missing: its sizes are unknown")
        if not found[theirs].shape:
            raise ValueError(f"{checkpoint.path}: {theirs} is a single number, expected weights")
        return found[theirs].shape

    patches = shape(CONVOLUTION)
    if spelling == "ours":
        patches = torch.Size((patches[0], patches[-1] // 4, 1, 2, 2))
    if len(patches) != 5 or patches[2] != 1 or patches[3] != patches[4]:
        name = foreign_name(CONVOLUTION, spelling)
        raise ValueError(f"{checkpoint.path}: {name} is {list(patches)}, expected [dim, channels, 1, p, p]")
    dim, channels, _, patch, _ = patches
    if dim % HEAD_DIM:
        raise ValueError(
            f"{checkpoint.path}: dim={dim} is no multiple of {HEAD_DIM}, so the number of heads is ambiguous: "
            f"put the model's {CONFIG} beside it"
        )
    numbers = [int(match[1]) for name in found if (match := re.match(r"blocks\.(\d{1,9})\.", name))]
    return TransformerConfig.make(
        dim=dim,
        heads=dim // HEAD_DIM,
        layers=1 + max(numbers, default=0),
        ffn_dim=shape("blocks.0.feed_forward.0.weight")[0],
        text_dim=shape("text_in.0.weight")[-1],
        in_channels=channels,
        out_channels=shape("head.weight")[0] // patch**2,
        patch=patch,
        freq_dim=shape("time_in.0.weight")[-1],
    )


def _refuse_variants(checkpoint: Checkpoint, config: TransformerConfig) -> None:
    """Refuse models whose names are those of a text-to-video transformer and whose sizes are not."""
    if config.in_channels != config.out_channels:
        raise ValueError(
            f"{checkpoint.path} takes {config.in_channels} channels and returns {config.out_channels}, expected as "
            "many: it is image-conditioned Wan, another architecture"
        )
    if (config.dim, config.in_channels) == (3072, 48):
        raise ValueError(
            f"{checkpoint.path} is Wan 2.2's 5B model: its latents have 48 channels, expected 16 of Wan 2.1's "
            "autoencoder"
        )
