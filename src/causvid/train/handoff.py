"""Hand a run over to another machine in a few small files.

A parcel is `parcel.json` beside `parcel.0`, `parcel.1`, …: pieces of one tar file with what later stages need. That is
the results of finished stages, the metrics of all, and the checkpoint of a stage that was interrupted. Checkpoints of
finished stages stay behind, and so do clips and trajectories, since stages `data` and `pairs` make the same ones again.
"""

import hashlib
import io
import json
import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from causvid.train.loop import CHECKPOINT, METRICS
from causvid.train.stages import ORDER, RESULTS

MIB = 2**20
PIECE = 16 * MIB
PARCEL = 64 * MIB
MANIFEST = "parcel.json"
MANIFEST_ROOM = MIB // 16
FORMAT = 1
SMALL = 4096
"""Tensors of fewer elements, such as biases, keep their precision whatever the parcel's."""

Precision = Literal["full", "half", "least"]


def pack(run: Path, parcel: Path, *, limit: int = PARCEL) -> list[Path]:
    """Write what the next stages of a run need as a parcel of at most `limit` bytes, in pieces of at most 16 MiB.

    As precise as fits: "full" leaves everything as it is, so that the run goes on exactly as it would have. "half"
    stores weights and averages as fp16 and the optimiser's moments as bf16, "least" leaves its first moments out, which
    grow again within ten steps.

    Returns:
        The files written, at most `limit` / 16 MiB rounded up, and one more.

    Raises:
        ValueError: if the run has nothing to hand over, or does not fit.
    """
    finished = [name for name, results in RESULTS.items() if all((run / result).exists() for result in results)]
    halfway = [name for name in RESULTS if name not in finished and (run / name / CHECKPOINT).exists()]
    if not finished and not halfway:
        raise ValueError(f"run={run} holds no stage's result and no checkpoint: there is nothing to pack")
    size = 0
    precisions: tuple[Precision, ...] = ("full", "half", "least")
    for precision in precisions:
        content = _tar(run, finished, halfway, precision)
        size = len(content)
        if size <= limit - MANIFEST_ROOM:
            about = {"precision": precision, "finished": finished, "interrupted": halfway}
            return _write(parcel, content, about)
    hint = f"; finish stage {halfway[-1]} on this machine: its result is smaller than its state" if halfway else ""
    raise ValueError(f"run={run} needs {size / MIB:.1f} MiB at least, {limit / MIB:g} are allowed{hint}")


def unpack(parcel: Path, run: Path) -> None:
    """Restore a run's folder, on which the next stage continues.

    Raises:
        ValueError: if the parcel is incomplete or damaged, or the folder already holds a run.
    """
    held = [*(result for results in RESULTS.values() for result in results), *(f"{s}/{CHECKPOINT}" for s in ORDER)]
    for name in held:
        if (run / name).exists():
            raise ValueError(f"out={run} already holds a run ({name}): unpack into another folder, or go on without")
    content = _read(parcel)
    run.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=run.parent, prefix=".unpack-") as place:
        try:
            with tarfile.open(fileobj=io.BytesIO(content)) as archive:
                archive.extractall(place, filter="data")
        except tarfile.TarError as error:
            raise ValueError(f"parcel={parcel} cannot be unpacked: {error}") from None
        shutil.copytree(place, run, dirs_exist_ok=True)


def _tar(run: Path, finished: list[str], halfway: list[str], precision: Precision) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as archive:
        for name, content in _entries(run, finished, halfway, precision):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return target.getvalue()


def _entries(run: Path, finished: list[str], halfway: list[str], precision: Precision) -> Iterator[tuple[str, bytes]]:
    for log in sorted(run.glob(f"*/{METRICS}")):
        yield log.relative_to(run).as_posix(), log.read_bytes()
    for result in (run / result for name in finished for result in RESULTS[name]):
        for file in sorted(result.rglob("*")) if result.is_dir() else [result]:
            name = file.relative_to(run).as_posix()
            if precision == "full" or file.suffix != ".safetensors":
                yield name, file.read_bytes()
            else:
                yield name, save(_reduce(load_file(file), precision))
    for file in (run / name / CHECKPOINT for name in halfway):
        if precision == "full":
            content = file.read_bytes()
        else:
            buffer = io.BytesIO()
            torch.save(_reduce(torch.load(file, map_location="cpu", weights_only=True), precision), buffer)
            content = buffer.getvalue()
        yield file.relative_to(run).as_posix(), content


def _reduce(value: Any, precision: Precision, key: object = None) -> Any:
    """Store large tensors with fewer bits, at any depth of a checkpoint."""
    if isinstance(value, dict):
        return {name: _reduce(item, precision, name) for name, item in value.items()}
    if isinstance(value, list):
        return [_reduce(item, precision, key) for item in value]
    if not isinstance(value, Tensor) or not value.is_floating_point() or value.numel() < SMALL:
        return value
    if key == "exp_avg" and precision == "least":
        return torch.zeros((), dtype=torch.bfloat16).expand(value.shape)  # one number, whatever the shape
    # Moments span more powers of ten than fp16 has.
    return value.to(torch.bfloat16 if key in ("exp_avg", "exp_avg_sq") else torch.float16)


def _write(parcel: Path, content: bytes, about: dict[str, Any]) -> list[Path]:
    parcel.mkdir(parents=True, exist_ok=True)
    for stale in (parcel / MANIFEST, *parcel.glob("parcel.[0-9]*")):
        stale.unlink(missing_ok=True)
    files, pieces = [], []
    for number, start in enumerate(range(0, len(content), PIECE)):
        piece = content[start : start + PIECE]
        file = parcel / f"parcel.{number}"
        file.write_bytes(piece)
        files.append(file)
        pieces.append({"name": file.name, "bytes": len(piece), "sha256": hashlib.sha256(piece).hexdigest()})
    # Last, so that a parcel without its manifest is known to be incomplete.
    partial = parcel / "parcel.partial"
    partial.write_text(json.dumps({"format": FORMAT, **about, "pieces": pieces}, indent=2) + "\n", encoding="utf-8")
    os.replace(partial, parcel / MANIFEST)
    return [*files, parcel / MANIFEST]


def _read(parcel: Path) -> bytes:
    try:
        manifest = json.loads((parcel / MANIFEST).read_text(encoding="utf-8"))
        pieces = (
            [(str(p["name"]), str(p["sha256"])) for p in manifest["pieces"]] if manifest["format"] == FORMAT else []
        )
    except OSError:
        raise ValueError(f"parcel={parcel} has no {MANIFEST}: give a folder that --pack wrote") from None
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{parcel / MANIFEST} is damaged ({error})") from None
    if not pieces:
        raise ValueError(f"{parcel / MANIFEST}: format={manifest['format']!r}, expected {FORMAT}")
    content = []
    for name, digest in pieces:
        file = parcel / Path(name).name
        if not file.is_file():
            raise ValueError(f"{file} is missing: the parcel has {len(pieces)} pieces")
        content.append(file.read_bytes())
        if hashlib.sha256(content[-1]).hexdigest() != digest:
            raise ValueError(f"{file} is damaged: it is not what was packed")
    return b"".join(content)
