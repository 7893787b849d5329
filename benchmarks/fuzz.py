"""Fuzz every reader: mutate small valid files, and say what each kind of input gets.

    python benchmarks/fuzz.py --count 1000 --seconds 300 --write docs/robustness.md

A reader may accept an input or refuse it with a ValueError or OSError of one line. Anything else is a traceback: its
input is kept in --keep, and the exit status is 1. Input k of a kind is the same in every run with the same --seed.
"""

import argparse
import json
import logging
import random
import sys
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from causvid.config import TransformerConfig
from causvid.engine.latents import load_latents, save_latents
from causvid.files.checkpoint import read_json
from causvid.loading.lora import read_lora
from causvid.loading.names import to_foreign
from causvid.loading.weights import load_transformer
from causvid.media import VideoWriter, read_image, read_video
from causvid.models.transformer import Transformer
from causvid.pipeline import Pipeline
from causvid.preset import load_preset
from causvid.timeline import Timeline

TOKENS = (
    b"\0",
    b"\xff" * 4,
    b"1e999",
    b"-1",
    b"999999999",
    b"null",
    b"[",
    b"{",
    b'"',
    b"\n",
    b"NaN",
    b"../",
    b"\x7f" * 8,
)


@dataclass
class Kind:
    """A reader, valid inputs for it, and what became of mutated ones."""

    name: str
    suffix: str
    read: Callable[[Path], Any]
    seeds: list[bytes]
    outcomes: Counter[str] = field(default_factory=Counter)
    worst_seconds: float = 0.0
    worst_bytes: int = 0


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Change a few places of a file: flip, overwrite, insert, remove, repeat, cut; mostly near its beginning."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        reach = len(changed) if rng.random() < 0.4 else min(len(changed), 512)
        at = rng.randrange(reach) if reach else 0
        kind = rng.randrange(6)
        if kind == 0 and changed:
            changed[at] ^= 1 << rng.randrange(8)
        elif kind == 1 and changed:
            changed[at] = rng.randrange(256)
        elif kind == 2:
            changed[at:at] = rng.choice(TOKENS)
        elif kind == 3:
            token = rng.choice(TOKENS)
            changed[at : at + len(token)] = token
        elif kind == 4:
            del changed[at : at + rng.choice((1, 4, 32))]
        else:
            changed[at:at] = changed[at : at + rng.choice((4, 64))]
    return bytes(changed[: rng.randrange(len(changed))]) if changed and rng.random() < 0.05 else bytes(changed)


def kinds(folder: Path) -> list[Kind]:
    """Make every reader's valid inputs."""

    def made(name: str, write: Callable[[Path], object]) -> bytes:
        write(folder / name)
        return (folder / name).read_bytes()

    config = TransformerConfig(dim=128, heads=1, layers=1, ffn_dim=8, text_dim=8, in_channels=4, out_channels=4)
    model = Transformer(config)
    model.initialise(torch.Generator().manual_seed(0))
    state = to_foreign(model.state_dict(), config, "wan")
    layer = "blocks.0.self_attn.q.lora_"
    lora = {
        f"{layer}A.weight": torch.ones(2, 8),
        f"{layer}B.weight": torch.ones(8, 2),
        "blocks.0.diff_m": torch.ones(1),
    }
    header = {"lora_adapter_metadata": json.dumps({"r": 2, "lora_alpha": 4, "alpha_pattern": {"blocks.*q": 8}})}
    timeline = {
        "seconds": 2.0,
        "shots": [{"at": 0, "prompt": "a"}, {"at": 1, "prompt": "b", "mode": "blend"}],
        "seed": 3,
    }
    noise = np.random.default_rng(0).integers(0, 256, (6, 32, 48, 3), np.uint8)
    pipeline = Pipeline.from_pretrained()
    stream = pipeline.stream("a red swan", steps=1)
    next(stream)

    def video(path: Path) -> None:
        with VideoWriter(path, fps=8, height=32, width=48) as writer:
            writer.write(noise)

    def toml(path: Path) -> None:
        Timeline.make(**timeline).save(path)

    preset = 'name = "a"\nextends = "nano"\n[generation]\nwidth = 96\nfps = 12.0\ntimesteps = [1000, 500]\n'
    pictures = [made(f"a.{suffix}", Image.fromarray(noise[0]).save) for suffix in ("png", "jpg", "webp", "tiff", "gif")]
    return [
        Kind(
            "weights (safetensors)",
            ".safetensors",
            load_transformer,
            [made("w.safetensors", lambda p: save_file(state, p))],
        ),
        Kind("weights (PyTorch)", ".pt", load_transformer, [made("w.pt", lambda p: torch.save(state, p))]),
        Kind("LoRA", ".safetensors", read_lora, [made("l.safetensors", lambda p: save_file(lora, p, metadata=header))]),
        Kind("JSON", ".json", read_json, [json.dumps(timeline).encode()]),
        Kind("timeline (JSON)", ".json", Timeline.load, [json.dumps(timeline).encode()]),
        Kind("timeline (TOML)", ".toml", Timeline.load, [made("t.toml", toml)]),
        Kind("preset (TOML)", ".toml", lambda p: load_preset(str(p)), [preset.encode()]),
        Kind(
            "latents",
            ".safetensors",
            load_latents,
            [made("x.safetensors", lambda p: save_latents(p, torch.ones(1, 2, 4, 4, 6), fps=8))],
        ),
        Kind("session", ".session", lambda p: next(pipeline.resume(p)), [made("s.session", stream.save)]),
        Kind("picture", ".png", lambda p: read_image(p, height=32, width=32), pictures),
        Kind(
            "video",
            ".mp4",
            lambda p: list(read_video(p, height=32, width=32, fps=8)),
            [made("v.mp4", video), made("v.webm", video), *pictures[:3]],
        ),
    ]


def attempt(kind: Kind, file: Path) -> str:
    """Read one input and return what became of it."""
    began = time.perf_counter()
    try:
        kind.read(file)
        outcome = "accepted"
    except (ValueError, OSError) as error:
        outcome = "refused" if "\n" not in str(error) else "several lines"
    except Exception as error:
        outcome = f"traceback ({type(error).__name__})"
    if outcome == "refused":
        kind.worst_seconds = max(kind.worst_seconds, time.perf_counter() - began)
    return outcome


def fuzz(kind: Kind, count: int, seconds: float, seed: int, keep: Path) -> None:
    """Try so many inputs of a kind, for so long at most; every twentieth also has its memory measured."""
    until, folder = time.monotonic() + seconds, keep / kind.name.split(" (")[0]
    with TemporaryDirectory() as place:
        file = Path(place) / f"it{kind.suffix}"
        for number in range(count):
            if time.monotonic() > until:
                break
            data = mutate(kind.seeds[number % len(kind.seeds)], random.Random(f"{seed} {kind.name} {number}"))
            file.write_bytes(data)
            if number % 20 == 0:
                tracemalloc.start()
            outcome = attempt(kind, file)
            if number % 20 == 0:
                kind.worst_bytes = max(
                    kind.worst_bytes, tracemalloc.get_traced_memory()[1] if outcome == "refused" else 0
                )
                tracemalloc.stop()
            kind.outcomes[outcome] += 1
            if outcome not in ("accepted", "refused"):
                folder.mkdir(parents=True, exist_ok=True)
                (folder / f"{number}{kind.suffix}").write_bytes(data)


def table(found: list[Kind]) -> str:
    """Return the results as a table of Markdown."""
    rows = ["| input | tried | accepted | refused in one line | anything else | longest refusal | most memory |"]
    rows.append("|---|---:|---:|---:|---|---:|---:|")
    for kind in found:
        other = ", ".join(f"{n} {what}" for what, n in kind.outcomes.items() if what not in ("accepted", "refused"))
        rows.append(
            f"| {kind.name} | {kind.outcomes.total():,} | {kind.outcomes['accepted']:,} "
            f"| {kind.outcomes['refused']:,} | {other or 'none'} | {kind.worst_seconds:.2f} s "
            f"| {kind.worst_bytes / 2**20:.1f} MiB |"
        )
    return "\n".join(rows)


def main() -> None:
    """Fuzz, print the table, and exit with 1 if anything was not accepted or refused in one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000, help="inputs of every kind")
    parser.add_argument("--seconds", type=float, default=600, help="for all kinds together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="the kinds whose names hold this")
    parser.add_argument("--keep", type=Path, default=Path("fuzz-findings"), help="where inputs are kept that fell")
    parser.add_argument("--write", type=Path, help="the page to write")
    options = parser.parse_args()
    logging.disable()
    torch.set_num_threads(1)
    with TemporaryDirectory() as folder:
        chosen = [kind for kind in kinds(Path(folder)) if not options.only or options.only in kind.name]
    for kind in chosen:
        fuzz(kind, options.count, options.seconds / len(chosen), options.seed, options.keep)
        print(f"{kind.name}: {dict(kind.outcomes)}, {kind.worst_seconds:.2f} s", file=sys.stderr, flush=True)
    print(table(chosen))
    if options.write:
        command = (
            f"python benchmarks/fuzz.py --count {options.count} --seconds {options.seconds:g} --seed {options.seed}"
        )
        options.write.write_text(
            "# What damaged and hostile files get\n\n"
            "Small valid files of every kind, changed at random places, given to the code that reads them. Memory is "
            "what Python allocates in\na refusal. Made by\n\n"
            f"```\n{command}\n```\n\n{table(chosen)}\n",
            encoding="utf-8",
        )
    sys.exit(any(set(kind.outcomes) - {"accepted", "refused"} for kind in chosen))


if __name__ == "__main__":
    main()
