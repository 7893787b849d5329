"""Passes of a stream compiled by torch's own compiler, which fuses what stands between the matrix products.

Letters: B batch, F latent frames of the chunk, C channels, H W latent rows and columns, L tokens of history and chunk,
M text tokens, N heads, K head dim.
"""

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from causvid.loading.graphs import Graphs, Inputs
from causvid.models.block import Block
from causvid.models.transformer import TextKeys, Transformer, timestep_embedding
from causvid.nn.cache import Room
from causvid.nn.rope import Rotation

FILE = "pass.pt2"
OPTIONS = {"freezing": True}
"""Weights become constants, packed for their products."""
NAMED = {"cpp.enable_kernel_profile": True}
"""A profile names what runs inside, which costs a nano pass a quarter of its time."""


class InductorPasses:
    """Runs passes of one stream with a full cache; several streams at once, and other streams, run as they did.

    named: a profile can tell what runs inside; slower.
    """

    def __init__(self, model: Transformer, *, named: bool = False) -> None:
        self._pass = _Pass(model)
        self._options = OPTIONS | (NAMED if named else {})
        self._config = model.config
        here = torch.backends.cpu.get_cpu_capability(), _instructions(), torch.get_num_threads()
        self._graphs = Graphs(self._pass, write=self._write, read=_read, made_by=("inductor", *self._options, *here))
        self._usable = True

    def __call__(self, x: Tensor, sigma: Tensor, text: TextKeys, at: Rotation, room: Room) -> Tensor | None:
        """Return the velocity of latents `[B, F, C, H, W]`, and write the tail of `room`.

        None for several streams, and where nothing can be compiled.
        """
        if not self._usable or len(x) > 1 or len(text.keys[0]) > 1 or room.mask is not None:
            return None
        embedding = timestep_embedding(sigma, self._config.freq_dim)
        history = (*room.keys.unbind(), *room.values.unbind())
        inputs = (x.contiguous(), embedding, at.cos, at.sin, *text.keys, *text.values, *history)
        try:
            graph = self._graphs.of(inputs)
        except (RuntimeError, OSError) as error:
            self._usable = False
            print(f"note: torch cannot compile here ({_first_line(error)}): running without", file=sys.stderr)
            return None
        return graph(*inputs)

    def _write(self, inputs: Inputs, folder: Path) -> None:
        from torch._inductor import aoti_compile_and_package

        print("note: compiling passes of this size, which takes a minute; the next start reads them", file=sys.stderr)
        with torch.inference_mode(False), torch.no_grad():
            program = torch.export.export(self._pass, tuple(torch.zeros(x.shape, dtype=x.dtype) for x in inputs))
            aoti_compile_and_package(program, package_path=str(folder / FILE), inductor_configs=self._options)


class _Pass(nn.Module):
    """A pass with a full cache as a function of tensors alone, which writes the tail of the history it is given."""

    def __init__(self, model: Transformer) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, embedding: Tensor, cos: Tensor, sin: Tensor, *layers: Tensor) -> Tensor:
        """Return what `leave` returns `[B, F, C, H, W]`.

        layers: of each block in turn the text's keys `[B, M, N, K]`, then its values, then the history's keys and the
        chunk's behind them `[B, L, N, K]`, then their values.
        """
        tokens = self.model.enter(x)
        time, modulation = self.model.condition(embedding)
        depth = len(self.model.blocks)
        parts = zip(*(layers[start : start + depth] for start in range(0, 4 * depth, depth)), strict=True)
        for block, (text_keys, text_values, keys, values) in zip(
            cast(Iterable[Block], self.model.blocks), parts, strict=True
        ):
            tokens = block(tokens, modulation, text_keys, text_values, Rotation(cos, sin), keys, values)
        return self.model.leave(tokens, time, x.shape[3] // self.model.config.patch)


def _read(folder: Path) -> Callable[..., Tensor]:
    from torch._inductor import aoti_load_package

    return cast(Callable[..., Tensor], aoti_load_package(str(folder / FILE)))


def _instructions() -> str:
    """Return what else this processor can do that compiled code may use."""
    has: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()  # torch 2.11 cannot tell
    return repr(sorted(has.items()))


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
