"""Damage to files, for `fuzz.py`: any bytes, or the structure that a format has, with hostile values in it.

Every function takes a valid file's bytes and a `random.Random`, and returns the bytes of a spoiled one.
"""

import copy
import io
import json
import random
import struct
import tomllib
import zlib
from collections.abc import Callable
from typing import Any

import tomli_w
import torch
from safetensors.torch import load, save

Mutation = Callable[[bytes, random.Random], bytes]

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
WHOLE = (0, 1, -1, 2, 255, 2**15, 2**31 - 1, 2**31, 2**32 - 1, 2**53, 2**63 - 1, 2**63, 10**9, 10**30)
SCALARS: tuple[Any, ...] = (
    *WHOLE, True, False, 0.5, -1.5, 1e-300, 1e300, float("nan"), float("inf"), float("-inf"), "", "a", "é\u202e", "\0",
    "../../etc/passwd", "/dev/zero", "a" * 5000, "9" * 5000, "nan", "[", "{}", "(a+)+$", "F32", "None", [], {},
)  # fmt: skip
DTYPES = (
    torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.int64, torch.int8, torch.uint8, torch.bool,
    torch.complex64,
)  # fmt: skip


def mutate_bytes(data: bytes, rng: random.Random) -> bytes:
    """Change a few places, mostly near the beginning: flip, overwrite, insert, remove, repeat, cut."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        reach = len(changed) if rng.random() < 0.4 else min(len(changed), 512)
        at = rng.randrange(reach) if reach else 0
        kind = rng.randrange(7)
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
        elif kind == 5:
            size, order = rng.choice((2, 4, 8)), rng.choice(("little", "big"))
            value = rng.choice(WHOLE) % 2 ** (8 * size)
            changed[at : at + size] = value.to_bytes(size, "little" if order == "little" else "big")
        else:
            changed[at:at] = changed[at : at + rng.choice((4, 64))]
    return bytes(changed[: rng.randrange(len(changed))]) if changed and rng.random() < 0.05 else bytes(changed)


def mutate_value(value: Any, rng: random.Random) -> Any:
    """Return JSON's values with a few of them replaced by hostile ones, removed, renamed, repeated or nested deeply."""
    holder = {"": copy.deepcopy(value)}
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        places = list(_places(holder))
        parent, key = rng.choice(places)
        kind = rng.randrange(10)
        if kind < 6:
            parent[key] = rng.choice(SCALARS)
        elif kind == 6 and parent is not holder:
            del parent[key]
        elif kind == 7 and isinstance(parent, dict) and parent is not holder:
            parent[str(rng.choice(SCALARS))] = parent.pop(key)
        elif kind == 8 and isinstance(parent[key], list):
            parent[key] = parent[key] * rng.choice((2, 50))
        else:
            for _ in range(rng.choice((1, 3, 50))):
                parent[key] = [parent[key]] if rng.random() < 0.5 else {"a": parent[key]}
    return holder.get("", {})


def _places(value: Any) -> "list[tuple[Any, Any]]":
    found: list[tuple[Any, Any]] = []
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        found.append((value, key))
        found += _places(value[key])
    return found


def mutate_json(data: bytes, rng: random.Random) -> bytes:
    """Spoil a JSON file; now and then it is nested deeper than a parser can follow."""
    if rng.random() < 0.01:
        return rng.choice((b"[", b'{"a":')) * 100_000
    return json.dumps(mutate_value(json.loads(data), rng)).encode("utf-8", "surrogatepass")


def mutate_lines(data: bytes, rng: random.Random) -> bytes:
    """Spoil a row of JSON lines."""
    lines = data.splitlines()
    at = rng.randrange(len(lines))
    lines[at] = mutate_json(lines[at], rng)
    return b"\n".join(lines)


def mutate_toml(data: bytes, rng: random.Random) -> bytes:
    """Spoil a TOML file; what TOML cannot say is tried again."""
    if rng.random() < 0.01:
        return b"a = " + b"[" * 100_000
    while True:
        changed = mutate_value(tomllib.loads(data.decode()), rng)
        if isinstance(changed, dict):
            return tomli_w.dumps(changed).encode("utf-8", "surrogatepass")


def mutate_header(data: bytes, rng: random.Random) -> bytes:
    """Spoil the header of a safetensors file: types, shapes, offsets, and what it states in words."""
    size = int.from_bytes(data[:8], "little")
    header, rest = json.loads(data[8 : 8 + size]), data[8 + size :]
    words = header.get("__metadata__", {})
    if words and rng.random() < 0.6:
        key = rng.choice(list(words))
        try:
            words[key] = json.dumps(mutate_value(json.loads(words[key]), rng))
        except ValueError:
            words[key] = str(rng.choice(SCALARS))
        if rng.random() < 0.1:
            words[key] = rng.choice(("[" * 100_000, "9" * 5000))
    else:
        header = mutate_value(header, rng)
    text = json.dumps(header).encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(text)) + text + rest


def mutate_tensors(tensors: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    """Return tensors with some of another shape, type, value or name, or gone."""
    changed = dict(tensors)
    for _ in range(rng.choice((1, 1, 2, 4))):
        name = rng.choice(list(changed)) if changed else "a"
        tensor, kind = changed.pop(name, torch.zeros(1)), rng.randrange(9)
        if kind == 0:
            changed[name] = tensor.to(rng.choice(DTYPES))
        elif kind == 1:
            changed[name] = torch.full_like(tensor.float(), rng.choice((float("nan"), float("inf"), 1e38)))
        elif kind == 2:
            changed[name] = tensor.reshape(-1)
        elif kind == 3:
            changed[name] = tensor.new_zeros([rng.choice((0, 1, 3)) for _ in range(rng.randrange(7))])
        elif kind == 4:
            changed[name] = tensor[None]
        elif kind == 5 and tensor.ndim:
            changed[name] = tensor[: rng.randrange(len(tensor) + 1)].clone()
        elif kind == 6:
            changed[rng.choice((name + ".alpha", "a", "", name.replace("0", "999999999"), name + ".scale_weight"))] = (
                tensor
            )
        elif kind == 7:
            changed[name] = torch.full_like(tensor, 127)
    return changed


def mutate_safetensors(data: bytes, rng: random.Random) -> bytes:
    """Write other tensors with the words of the header, or spoil the header itself."""
    if rng.random() < 0.5:
        return mutate_header(data, rng)
    size = int.from_bytes(data[:8], "little")
    words = json.loads(data[8 : 8 + size]).get("__metadata__")
    changed = {name: tensor.contiguous() for name, tensor in mutate_tensors(load(data), rng).items()}
    return save(changed, metadata=words)


def mutate_pytorch(data: bytes, rng: random.Random) -> bytes:
    """Write other tensors, and other things where tensors are expected, as PyTorch does."""
    content: Any = torch.load(io.BytesIO(data), weights_only=True)
    places = [(parent, key) for parent, key in _places({"": content}) if isinstance(parent, dict)]
    parent, key = rng.choice(places)
    if (
        isinstance(parent[key], dict)
        and parent[key]
        and all(isinstance(it, torch.Tensor) for it in parent[key].values())
    ):
        spoiled: Any = mutate_tensors(parent[key], rng)
    elif isinstance(parent[key], torch.Tensor) and rng.random() < 0.7:
        spoiled = next(iter(mutate_tensors({"a": parent[key]}, rng).values()), None)
    else:
        spoiled = rng.choice((*SCALARS, None, b"", torch.zeros(0)))
    if parent.get("") is content and key == "":
        content = spoiled
    else:
        parent[key] = spoiled
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def mutate_chunks(data: bytes, rng: random.Random) -> bytes:
    """Spoil a PNG's chunks and write their checksums again; other pictures have any bytes changed."""
    if not data.startswith(b"\x89PNG"):
        return mutate_bytes(data, rng)
    chunks, at = [], 8
    while at + 12 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + size]))
        at += 12 + size
    which = 0 if rng.random() < 0.5 else rng.randrange(len(chunks))
    name, body = chunks[which]
    if rng.random() < 0.2:
        extra = rng.choice((b"iCCP", b"eXIf", b"tRNS", b"PLTE", b"acTL", b"gAMA", b"zTXt", b"iTXt", b"cICP"))
        chunks.insert(1, (extra, bytes(rng.randrange(256) for _ in range(rng.choice((0, 1, 6, 40))))))
    else:
        chunks[which] = name, mutate_bytes(body, rng) if body else b"\0"
    written = (struct.pack(">I", len(it)) + tag + it + struct.pack(">I", zlib.crc32(tag + it)) for tag, it in chunks)
    return data[:8] + b"".join(written)
