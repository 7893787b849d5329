"""What a file or folder of weights holds, in words and numbers."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from causvid.files.checkpoint import Entry, open_checkpoint, weight_files
from causvid.loading.names import recognise, shapes
from causvid.loading.weights import Sniffed, bare_names, choose_section, sniff
from causvid.preset import load_preset

PARTS = ("transformer", "transformer_2", "teacher", "vae", "text_encoder", "image_encoder", "classifier")
_SIZES = {"wan-1.3b": "Wan 2.1 1.3B", "wan-14b": "Wan 2.1 14B, or one of the two of Wan 2.2"}
_LAYOUTS = {
    "diffusers": "diffusers",
    "wan": "Wan's original",
    "ours": "this package's own, as a training run has it",
}
_STORED = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp8": torch.float8_e4m3fn}

Rows = Iterable[tuple[str, str]]


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
    places = [*folders, *weight_files(path)]
    if not places:
        raise ValueError(f"{path} holds no weights, and no folder of a model's part such as {PARTS[0]}")
    found = []
    for place in places:
        try:
            found.append(_describe(place.name, place, section))
        except ValueError as error:
            found.append(Description(place.name, (), str(error)))
    return found


def _describe(title: str, path: Path, section: str | None) -> Description:
    checkpoint = open_checkpoint(path)
    shards = f", {len(checkpoint.files)} shards" if checkpoint.shards else ""
    rows = [
        ("format", f"{checkpoint.format}{shards}"),
        ("size", f"{_bytes(sum(file.stat().st_size for file in checkpoint.files))} on disk"),
    ]
    if list(checkpoint.sections) != [""]:
        counts = (f"{name or 'none'} ({len(entries)} tensors)" for name, entries in checkpoint.sections.items())
        rows.append(("sections", ", ".join(counts)))
    kinds = {name: recognise(bare_names(checkpoint, name)) for name in checkpoint.sections}
    loras = all(kind.role == "lora" for kind in kinds.values())
    chosen = next(iter(kinds)) if loras and section is None else choose_section(checkpoint, section)
    entries, kind = checkpoint.sections[chosen], kinds[chosen]
    rows = [("what", kind.what), *rows, *_tensor_rows(entries.values())]
    problem = None
    if kind.role == "lora":
        rows += _lora_rows(entries)
    elif kind.role != "other":
        try:
            found = sniff(checkpoint, section=chosen)
            rows[1:1] = _transformer_rows(found)
            problem = f"the weights do not fit: {found.mismatch}" if found.mismatch else None
        except ValueError as error:
            problem = str(error)
    return Description(title, tuple(rows), problem)


def _transformer_rows(found: Sniffed) -> Rows:
    sizes = found.config
    named = (name for preset, name in _SIZES.items() if load_preset(preset).transformer == sizes)
    yield "family", next(named, "of no published size")
    in_section = found.spelling == "wan" and found.section
    yield "layout", _LAYOUTS[found.spelling] + (" in a section, as CausVid and Self Forcing have it" * bool(in_section))
    if found.section:
        yield "section used", found.section
    yield (
        "sizes",
        f"{sizes.layers} blocks, width {sizes.dim}, {sizes.heads} heads of {sizes.head_dim}, feed-forward "
        f"{sizes.ffn_dim}, text {sizes.text_dim}, latent channels {sizes.in_channels}",
    )
    yield "matching", f"{len(found.names)} of {len(shapes(sizes))} parameters"


def _tensor_rows(entries: Iterable[Entry]) -> Rows:
    counts: Counter[str] = Counter()
    for entry in entries:
        counts[str(entry.dtype).removeprefix("torch.")] += entry.shape.numel()
    total = counts.total()
    yield "parameters", f"{total:,}"
    shares = (name + (f" ({n / total:.1%})" if len(counts) > 1 else "") for name, n in counts.most_common())
    yield "precision", ", ".join(shares)
    yield "memory", ", ".join(f"{_bytes(total * dtype.itemsize)} in {name}" for name, dtype in _STORED.items())


def _lora_rows(entries: Mapping[str, Entry]) -> Rows:
    downs = [entry for key, entry in entries.items() if "lora_A" in key or "lora_down" in key or "lora.down" in key]
    ranks = sorted({entry.shape[0] for entry in downs})
    yield "layers", f"{len(downs)}" + (f" of rank {', '.join(map(str, ranks))}" if ranks else "")


def _bytes(count: float) -> str:
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"
