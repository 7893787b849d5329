"""Read the transformer from every published format, recognised by names and shapes."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from causvid.config import TransformerConfig
from causvid.files.checkpoint import Checkpoint, Entry, open_checkpoint
from causvid.loading.names import (
    CONVOLUTION,
    Mismatch,
    Spelling,
    bare_name,
    compare_shapes,
    few,
    foreign_name,
    foreign_shapes,
    own_name,
    shapes,
)
from causvid.loading.recognise import recognise
from causvid.loading.wan_config import CONFIG, read_config
from causvid.models.transformer import Transformer

Layout = Literal["diffusers", "wan", "causvid", "ours"]
SECTIONS = ("generator_ema", "generator", "state_dict", "model", "")
"""Where a file of several state dicts has the weights to generate with, the first one first."""
HEAD_DIM = 128
"""Channels of a head in every published model."""

_EIGHT_BIT = (torch.float8_e4m3fn, torch.float8_e5m2)
# Two spellings of the factor that 8-bit weights were divided by, and what else comes with them.
_SCALES = (".scale_weight", ".weight_scale")
_BESIDE_SCALES = (".scale_input", ".input_scale", ".comfy_quant")
_MARK = "scaled_fp8"


@dataclass(frozen=True)
class Sniffed:
    """A transformer found in a checkpoint.

    layout: whose names it has; "causvid" is Wan's original within a section, as training code saves it.
    names: our name → the file's. scales: our name → the file's name of the factor of 8-bit weights.
    dtype: of most values. mismatch: what does not fit `config`, in the layout's names.
    """

    layout: Layout
    section: str
    names: Mapping[str, str]
    config: TransformerConfig
    dtype: torch.dtype
    mismatch: Mismatch
    scales: Mapping[str, str]

    @property
    def spelling(self) -> Spelling:
        """Return whose names the file has."""
        return "wan" if self.layout == "causvid" else self.layout


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
    checkpoint = open_checkpoint(transformer_place(path))
    found = sniff(checkpoint, section=section)
    read = read_parameters(checkpoint, found, dtype=dtype or working_dtype(found.dtype), device=device)
    return build_transformer(found.config, dict(read))


def read_parameters(
    checkpoint: Checkpoint,
    found: Sniffed,
    names: Sequence[str] | None = None,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
) -> Iterator[tuple[str, Tensor]]:
    """Yield parameters that `sniff` found, or some of them, one at a time, by our names and in our shapes.

    dtype: by default each parameter's own; bfloat16 for 8-bit ones with a factor.

    Raises:
        ValueError: if anything in the checkpoint is missing, unknown or of another shape, before the first is read.
    """
    check_fit(checkpoint, found)
    own = shapes(found.config)
    wanted = {found.names[name]: name for name in (own if names is None else names)}
    factors = checkpoint.read(list(found.scales.values()), section=found.section, dtype=torch.float32, device=device)
    scales = dict(factors)
    for raw, tensor in checkpoint.read(list(wanted), section=found.section, dtype=dtype, device=device):
        name = wanted[raw]
        if name in found.scales:
            factor = scales[found.scales[name]].reshape(-1, *[1] * (tensor.ndim - 1))
            tensor = tensor.to(working_dtype(tensor.dtype)).mul_(factor)
        yield name, tensor.reshape(own[name])


def build_transformer(config: TransformerConfig, state: Mapping[str, Tensor]) -> Transformer:
    """Make a transformer that uses the tensors of `state`, without allocating others, in evaluation mode."""
    with torch.device("meta"):
        model = Transformer(config)
    model.load_state_dict(state, assign=True)
    return model.eval()


def working_dtype(stored: torch.dtype) -> torch.dtype:
    """Return the type to compute in for weights stored as `stored`: 8-bit ones are for storage alone."""
    return torch.bfloat16 if stored in _EIGHT_BIT else stored


def transformer_place(path: Path) -> Path:
    """Return where the transformer of a pipeline's folder is, or `path` itself."""
    return path / "transformer" if (path / "model_index.json").is_file() else path


def sniff(checkpoint: Checkpoint, *, section: str | None = None) -> Sniffed:
    """Find the transformer in a checkpoint; what does not fit its sizes is listed, not raised.

    Sizes come from a `config.json` beside it, or else from its shapes, in which the number of heads leaves no trace:
    heads then have 128 channels.

    Raises:
        ValueError: if it holds no Wan transformer, one of another architecture, or its sizes are ambiguous.
    """
    section = choose_section(checkpoint, section)
    entries = checkpoint.sections[section]
    raw = bare_names(checkpoint, section)
    kind = recognise(raw)
    if kind.role != "transformer":
        raise ValueError(
            f"{_within(checkpoint, section)} is {kind.what}, expected a Wan 2.1 text-to-video transformer "
            f"(it holds {few(list(entries), 2)})"
        )
    spellings: tuple[Spelling, ...] = ("wan", "diffusers", "ours")
    spelling = max(spellings, key=lambda it: sum(own_name(name, it) is not None for name in raw))

    scales = {f"{name.removesuffix(end)}.weight": name for name in raw for end in _SCALES if name.endswith(end)}
    beside = {name for name in raw if name.endswith(_BESIDE_SCALES) or name == _MARK}.union(scales.values())
    found = {name: entries[raw[name]] for name in raw if name not in beside}
    _check_types(checkpoint, {raw[name]: entry for name, entry in found.items()})
    if beside:
        factors = {raw[name]: entries[raw[scale]] for name, scale in scales.items() if name in found}
        _check_factors(checkpoint, {raw[name]: entry for name, entry in found.items()}, factors)

    sizes = {own: entry.shape for name, entry in found.items() if (own := own_name(name, spelling)) is not None}
    config = read_config(checkpoint.path.parent) or _infer_config(checkpoint, sizes, spelling)
    _refuse_variants(checkpoint, config)
    expected = foreign_shapes(config, spelling)
    mismatch = compare_shapes({name: entry.shape for name, entry in found.items()}, expected)
    names = {name: raw[theirs] for name in shapes(config) if (theirs := foreign_name(name, spelling)) in found}
    return Sniffed(
        layout="causvid" if spelling == "wan" and section else spelling,
        section=section,
        names=names,
        config=config,
        dtype=_most_common(found),
        mismatch=mismatch,
        scales={name: raw[scales[theirs]] for name in names if (theirs := foreign_name(name, spelling)) in scales},
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
    for name in checkpoint.sections[section]:
        other = raw.setdefault(bare_name(name), name)
        if other != name:
            raise ValueError(f"{_within(checkpoint, section)} has both {other} and {name}, expected one of them")
    return raw


def check_fit(checkpoint: Checkpoint, found: Sniffed) -> None:
    """Raise a `ValueError` that names what is missing, unknown or of another shape, if anything is."""
    if found.mismatch:
        raise ValueError(f"{_within(checkpoint, found.section)}: the weights do not fit: {found.mismatch}")


def _within(checkpoint: Checkpoint, section: str) -> str:
    return f"{checkpoint.path} (section {section})" if section else str(checkpoint.path)


def _check_types(checkpoint: Checkpoint, entries: Mapping[str, Entry]) -> None:
    for name, entry in entries.items():
        if not entry.dtype.is_floating_point:
            raise ValueError(f"{checkpoint.path}: {name} is {short_name(entry.dtype)}, expected floating point")


def _check_factors(checkpoint: Checkpoint, entries: Mapping[str, Entry], factors: Mapping[str, Entry]) -> None:
    """Check that scaled 8-bit weights have a factor, or one for each row; `factors` are by the weight's name."""
    for name, entry in entries.items():
        count = factors[name].shape.numel() if name in factors else None
        if count is None and entry.dtype in _EIGHT_BIT:
            raise ValueError(
                f"{checkpoint.path}: {name} is {short_name(entry.dtype)} and scaled, but its factor is missing, "
                f"expected {name.removesuffix('.weight')}{_SCALES[0]}"
            )
        if count not in (None, 1, *entry.shape[:1]):
            raise ValueError(f"{checkpoint.path}: {name} has {count} factors, expected one, or one for each row")


def _infer_config(checkpoint: Checkpoint, sizes: Mapping[str, torch.Size], spelling: Spelling) -> TransformerConfig:
    def shape(name: str) -> torch.Size:
        if name not in sizes:
            raise ValueError(f"{checkpoint.path}: {foreign_name(name, spelling)} is missing: its sizes are unknown")
        return sizes[name]

    patches = shape(CONVOLUTION)
    if spelling == "ours":
        patches = torch.Size((patches[0], patches[-1] // 4, 1, 2, 2))
    if len(patches) != 5 or patches[2] != 1 or patches[3] != patches[4]:
        raise ValueError(
            f"{checkpoint.path}: {foreign_name(CONVOLUTION, spelling)} is {list(patches)}, expected "
            "[dim, channels, 1, p, p]"
        )
    dim, channels, _, patch, _ = patches
    if dim % HEAD_DIM:
        raise ValueError(
            f"{checkpoint.path}: dim={dim} is no multiple of {HEAD_DIM}, so the number of heads is ambiguous: "
            f"put the model's {CONFIG} beside it"
        )
    return TransformerConfig(
        dim=dim,
        heads=dim // HEAD_DIM,
        layers=1 + max(int(name.split(".")[1]) for name in sizes if name.startswith("blocks.")),
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


def _most_common(entries: Mapping[str, Entry]) -> torch.dtype:
    counts: Counter[torch.dtype] = Counter()
    for entry in entries.values():
        counts[entry.dtype] += entry.shape.numel()
    return counts.most_common(1)[0][0]


def short_name(dtype: torch.dtype) -> str:
    """Return a type's name without `torch.`."""
    return str(dtype).removeprefix("torch.")
