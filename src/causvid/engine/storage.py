"""Sessions on disk: a safetensors file whose header holds, as JSON, everything that is not a tensor.

A session is of one model: the file carries the model's fingerprint and is refused by another.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from hashlib import sha256
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import torch
from pydantic import BaseModel, TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from causvid.engine.session import SessionState
from causvid.files.format import check_header
from causvid.files.writing import write_tensors

FORMAT = "causvid session 1"


def fingerprint(*modules: nn.Module) -> str:
    """Return a digest of the weights' names, shapes and some of their values."""
    digest = sha256()
    for module in modules:
        for name, tensor in module.state_dict().items():
            values = tensor.detach().flatten()
            step = max(1, values.numel() // 64)
            digest.update(f"{name} {list(tensor.shape)} {tensor.dtype}".encode())
            digest.update(values[::step].float().cpu().numpy().tobytes())
    return digest.hexdigest()[:32]


def save_session(path: Path, state: SessionState, *, model: str) -> None:
    """Write a session of the model with fingerprint `model`; the file appears whole or not at all.

    Raises:
        ValueError: if the session follows frames that were handed over, which a file cannot name.
        OSError: if it cannot be written.
    """
    request = state.request
    if request.source is not None and not isinstance(request.source, str | Path):
        raise ValueError("a session that follows frames handed over in memory cannot be saved: give a file as source")
    files = {name: getattr(request, name) for name in ("image", "after", "source")}
    named = {name: os.path.abspath(file) if isinstance(file, str | Path) else None for name, file in files.items()}
    point = replace(state.point, text=None)  # the embedding says it all, and is a fraction of the size
    tensors: dict[str, Tensor] = {}
    values = _flatten(replace(state, request=request.model_copy(update=named), point=point), tensors)
    header = {"format": FORMAT, "model": model, "state": json.dumps(values)}
    write_tensors(path, tensors, header)


def load_session(path: Path, *, model: str, device: torch.device | str = "cpu") -> SessionState:
    """Read a session of the model with fingerprint `model`.

    Raises:
        ValueError: if the file is missing, damaged, not a session, or of another model.
    """
    if not path.exists():
        raise ValueError(f"session {path} is missing")
    try:
        check_header(path)
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            if header.get("format") != FORMAT:
                raise ValueError(f"its format is {header.get('format')!r}, expected {FORMAT!r}")
            if header.get("model") != model:
                raise ValueError("it belongs to another model: load that one, or start a new stream")
            tensors = {name: file.get_tensor(name).to(device) for name in file.keys()}  # noqa: SIM118
        state: SessionState = _rebuild(SessionState, json.loads(header["state"]), tensors)
        source = state.source  # frames and the state of a generator live on the CPU
        if source is not None and source.latest is not None:
            source = replace(source, latest=source.latest.cpu())
        return replace(state, random=state.random.cpu(), source=source)
    except ValidationError as error:
        raise ValueError(f"session {path} is damaged: {error.errors()[0]['msg']}") from None
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"session {path} cannot be used: {' '.join(str(error).split())}") from None


def _flatten(value: Any, tensors: dict[str, Tensor]) -> Any:
    """Turn a tree of dataclasses into plain JSON values, with the names of tensors in their place."""
    if isinstance(value, Tensor):
        name = f"{len(tensors)}"
        tensors[name] = value
        return name
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", exclude_defaults=True)
    if is_dataclass(value):
        return {part.name: _flatten(getattr(value, part.name), tensors) for part in fields(value)}
    if isinstance(value, list | tuple):
        return [_flatten(part, tensors) for part in value]
    return value


def _rebuild(kind: Any, value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Turn plain values back into what they were, a value of type `kind`; what does not fit raises."""
    arguments = get_args(kind)
    if get_origin(kind) in (Union, UnionType):
        if value is None and NoneType in arguments:
            return None
        kinds = [argument for argument in arguments if argument is not NoneType]
        if len(kinds) == 1:
            return _rebuild(kinds[0], value, tensors)
        return TypeAdapter(kind).validate_python(value)
    if kind is Tensor:
        return tensors[value]
    if get_origin(kind) is tuple:
        if arguments[-1] is Ellipsis:
            return tuple(_rebuild(arguments[0], part, tensors) for part in value)
        return tuple(_rebuild(part_kind, part, tensors) for part_kind, part in zip(arguments, value, strict=True))
    if get_origin(kind) is Literal or not is_dataclass(kind):
        return TypeAdapter(kind).validate_python(value)
    hints = get_type_hints(kind)
    make: Any = kind
    return make(**{part.name: _rebuild(hints[part.name], value[part.name], tensors) for part in fields(kind)})
