"""What a file or folder of weights holds, in words and numbers."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

from causvid.config import TransformerConfig
from causvid.files.checkpoint import Checkpoint, Entry, open_checkpoint, weight_files
from causvid.loading.names import few, nearest, shapes
from causvid.loading.recognise import Kind, recognise
from causvid.loading.weights import Sniffed, bare_names, choose_section, short_name, sniff
from causvid.preset import load_preset

PARTS = ("transformer", "transformer_2", "teacher", "vae", "text_encoder", "image_encoder", "classifier")
_SIZES = {"wan-1.3b": "Wan 2.1 1.3B", "wan-14b": "Wan 2.1 14B, or one of the two of Wan 2.2"}
_LAYOUTS = {
    "diffusers": "diffusers",
    "wan": "Wan's original",
    "causvid": "Wan's original in a section, as CausVid and Self Forcing have it",
    "ours": "this package's own, as a training run has it",
}
_STORED = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp8": torch.float8_e4m3fn}


@dataclass(frozen=True)
class Description:
    """rows: what, and its value. problem: why it cannot be used, if it cannot."""

    title: str
    rows: tuple[tuple[str, str], ...]
    problem: str | None = None


def describe(path: Path, *, section: str | None = None) -> list[Description]:
    """Describe a file of weights, or every part of a folder.

    Raises:
        ValueError: if there is nothing, or `path` is one file that cannot be opened.
    """
    if not path.is_dir():
        return [_describe(path.name, path, section)]
    folders = [path / part for part in PARTS if (path / part).is_dir()]
    places = {folder.name: folder for folder in folders} | {file.name: file for file in weight_files(path)}
    if not places:
        raise ValueError(f"{path} holds no weights, and no folder of a model's part such as {PARTS[0]}")
    found = []
    for title, place in places.items():
        try:
            found.append(_describe(title, place, section))
        except ValueError as error:
            found.append(Description(title, (), str(error)))
    return found


def _describe(title: str, path: Path, section: str | None) -> Description:
    checkpoint = open_checkpoint(path)
    rows = [
        ("format", f"{checkpoint.format}, {len(checkpoint.files)} shards" if checkpoint.shards else checkpoint.format),
        ("size", f"{_bytes(sum(file.stat().st_size for file in checkpoint.files))} on disk"),
    ]
    if list(checkpoint.sections) != [""]:
        counts = (f"{name or 'none'} ({len(entries)} tensors)" for name, entries in checkpoint.sections.items())
        rows.append(("sections", ", ".join(counts)))
    kinds = {name: recognise(bare_names(checkpoint, name)) for name in checkpoint.sections}
    if all(kind.role == "lora" for kind in kinds.values()):
        return Description(title, (("what", "a LoRA"), *rows, *_lora_rows(checkpoint, section)))
    chosen = choose_section(checkpoint, section)
    kind, entries = kinds[chosen], checkpoint.sections[chosen].values()
    if kind.role not in ("transformer", "variant"):
        return Description(title, (("what", kind.what), *rows, *_tensor_rows(entries)))
    try:
        found = sniff(checkpoint, section=chosen)
    except ValueError as error:
        return Description(title, (("what", kind.what), *rows, *_tensor_rows(entries)), str(error))
    problem = f"the weights do not fit: {found.mismatch}" if found.mismatch else None
    return Description(
        title, (*_transformer_rows(kind, found), *rows, *_tensor_rows(entries), *_fit_rows(found)), problem
    )


def _transformer_rows(kind: Kind, found: Sniffed) -> Iterable[tuple[str, str]]:
    yield "what", kind.what
    yield "family", _family(found.config)
    yield "layout", _LAYOUTS[found.layout]
    if found.section:
        yield "section used", found.section
    sizes = found.config
    yield (
        "sizes",
        f"{sizes.layers} blocks, width {sizes.dim}, {sizes.heads} heads of {sizes.head_dim}, feed-forward "
        f"{sizes.ffn_dim}, text {sizes.text_dim}, latent channels {sizes.in_channels}",
    )


def _tensor_rows(entries: Iterable[Entry]) -> Iterable[tuple[str, str]]:
    counts: Counter[torch.dtype] = Counter()
    for entry in entries:
        counts[entry.dtype] += entry.shape.numel()
    total = counts.total()
    yield "parameters", f"{total:,}"
    kinds = (
        f"{short_name(dtype)}" + (f" ({n / total:.1%})" if len(counts) > 1 else "") for dtype, n in counts.most_common()
    )
    yield "precision", ", ".join(kinds)
    yield "memory", ", ".join(f"{_bytes(total * dtype.itemsize)} in {name}" for name, dtype in _STORED.items())


def _fit_rows(found: Sniffed) -> Iterable[tuple[str, str]]:
    mismatch, expected = found.mismatch, shapes(found.config)
    yield "matching", f"{len(found.names) - len(mismatch.misshapen)} of {len(expected)} parameters"
    if mismatch.missing:
        yield "missing", few(mismatch.missing)
    for name in mismatch.unknown[:4]:
        guess = nearest(name, mismatch.missing)
        yield "unmatched", name + (f", meant to be {guess}?" if guess else "")
    if len(mismatch.unknown) > 4:
        yield "unmatched", f"and {len(mismatch.unknown) - 4} more"
    for line in mismatch.misshapen[:4]:
        yield "of another shape", line


def _lora_rows(checkpoint: Checkpoint, section: str | None) -> Iterable[tuple[str, str]]:
    name = next(iter(checkpoint.sections)) if section is None else choose_section(checkpoint, section)
    entries = checkpoint.sections[name]
    downs = [entry for key, entry in entries.items() if "lora_A" in key or "lora_down" in key or "lora.down" in key]
    ranks = sorted({entry.shape[0] for entry in downs})
    yield "layers", f"{len(downs)}" + (f" of rank {', '.join(map(str, ranks))}" if ranks else "")
    yield from _tensor_rows(entries.values())


def _family(config: TransformerConfig) -> str:
    for preset, name in _SIZES.items():
        if load_preset(preset).transformer == config:
            return name
    return "of no published size"


def _bytes(count: float) -> str:
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"
