"""Passes of a stream by OpenVINO: a graph for every size of chunk and window, kept on disk for the next start.

Letters as in `models/cached_pass.py`.
"""

import hashlib
import os
import warnings
from importlib.metadata import version
from pathlib import Path

import numpy as np
import openvino
import torch
from torch import Tensor

from causvid.files.writing import new_folder
from causvid.models.cached_pass import CachedPass
from causvid.models.transformer import TextKeys, Transformer, timestep_embedding
from causvid.nn.cache import Room
from causvid.nn.rope import Rotation

LARGEST = 2**29
"""Parameters of the largest transformer whose graphs are kept on disk: they hold its weights."""
OPTIONS = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}


class OpenVinoPasses:
    """Runs passes of one stream with a full cache; several streams at once, and other streams, run as they did."""

    def __init__(self, model: Transformer) -> None:
        self._pass = CachedPass(model)
        self._config = model.config
        self._requests: dict[tuple[int, ...], openvino.InferRequest] = {}
        self._digest = ""

    def __call__(self, x: Tensor, sigma: Tensor, text: TextKeys, at: Rotation, room: Room) -> Tensor | None:
        """Return the velocity of latents `[B, F, C, H, W]`, and write the tail of `room`; None for several streams."""
        if len(x) > 1 or len(text.keys[0]) > 1 or room.mask is not None:
            return None
        tail = x.shape[1] * (x.shape[3] // self._config.patch) * (x.shape[4] // self._config.patch)
        stop = room.keys.shape[2] - tail
        embedding = timestep_embedding(sigma, self._config.freq_dim)
        keys, values = torch.stack(text.keys), torch.stack(text.values)
        past = room.keys[:, :, :stop], room.values[:, :, :stop]
        inputs = tuple(tensor.contiguous() for tensor in (x, embedding, keys, values, at.cos, at.sin, *past))
        arrays = [tensor.numpy() for tensor in inputs]
        found = self._request(inputs).infer(arrays, share_inputs=True, share_outputs=True)
        velocity, new_keys, new_values = (torch.from_numpy(np.asarray(found[place])) for place in range(3))
        room.keys[:, :, stop:] = new_keys
        room.values[:, :, stop:] = new_values
        return velocity.clone()  # the next pass writes where it lies

    def _request(self, inputs: tuple[Tensor, ...]) -> openvino.InferRequest:
        sizes = tuple(size for tensor in inputs for size in tensor.shape)
        if sizes not in self._requests:
            core = openvino.Core()
            options = {**OPTIONS, "INFERENCE_NUM_THREADS": str(torch.get_num_threads())}
            compiled = core.compile_model(self._graph(core, inputs, sizes), "CPU", options)
            self._requests[sizes] = compiled.create_infer_request()
        return self._requests[sizes]

    def _graph(self, core: openvino.Core, inputs: tuple[Tensor, ...], sizes: tuple[int, ...]) -> openvino.Model:
        """Read the graph of a size from disk, or write it down, which takes seconds."""
        if sum(p.numel() for p in self._pass.parameters()) > LARGEST:
            return self._captured(inputs)
        place = cache_folder() / f"{self._name(sizes)}"
        file = place / "pass.xml"
        if file.is_file():
            try:
                return core.read_model(file)
            except RuntimeError:
                pass  # damaged: it is made again
        graph = self._captured(inputs)
        try:
            with new_folder(place) as folder:
                openvino.save_model(graph, folder / "pass.xml", compress_to_fp16=False)
        except (OSError, RuntimeError, ValueError):
            pass  # a disk that is full costs the next start some seconds, and nothing else
        return graph

    def _captured(self, inputs: tuple[Tensor, ...]) -> openvino.Model:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # of sizes that become constants: they are
            graph = openvino.convert_model(self._pass, example_input=inputs)
        for port, tensor in zip(graph.inputs, inputs, strict=True):
            port.get_node().set_partial_shape(openvino.PartialShape(list(tensor.shape)))
        graph.validate_nodes_and_infer_types()
        return graph

    def _name(self, sizes: tuple[int, ...]) -> str:
        if not self._digest:
            digest = hashlib.sha256()
            for name, tensor in self._pass.state_dict().items():
                digest.update(f"{name} {list(tensor.shape)}".encode())
                digest.update(tensor.detach().contiguous().numpy().tobytes())
            self._digest = digest.hexdigest()
        made = (self._digest, sizes, version("openvino"), version("torch"), version("causvid"))
        return hashlib.sha256(repr(made).encode()).hexdigest()[:32]


def cache_folder() -> Path:
    """Return where graphs are kept: `CAUSVID_CACHE`, or `causvid` in the user's folder of caches."""
    own = os.environ.get("CAUSVID_CACHE")
    return Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "causvid"
