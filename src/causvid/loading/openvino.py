"""Passes of a stream by OpenVINO. Letters as in `models/cached_pass.py`."""

import warnings
from importlib.metadata import version
from pathlib import Path

import numpy as np
import openvino
import torch
from torch import Tensor

from causvid.loading.graphs import Graphs, Inputs
from causvid.models.cached_pass import CachedPass
from causvid.models.transformer import TextKeys, Transformer, timestep_embedding
from causvid.nn.cache import Room
from causvid.nn.rope import Rotation

OPTIONS = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}


class OpenVinoPasses:
    """Runs passes of one stream with a full cache; several streams at once, and other streams, run as they did."""

    def __init__(self, model: Transformer) -> None:
        self._pass = CachedPass(model)
        self._config = model.config
        self._graphs = Graphs(self._pass, write=self._write, read=_read, made_by=("openvino", version("openvino")))

    def __call__(self, x: Tensor, sigma: Tensor, text: TextKeys, at: Rotation, room: Room) -> Tensor | None:
        """Return the velocity of latents `[B, F, C, H, W]`, and write the tail of `room`; None for several streams."""
        if len(x) > 1 or len(text.keys[0]) > 1 or room.mask is not None:
            return None
        stop = room.keys.shape[2] - at.cos.shape[1]
        embedding = timestep_embedding(sigma, self._config.freq_dim)
        keys, values = torch.stack(text.keys), torch.stack(text.values)
        past = room.keys[:, :, :stop], room.values[:, :, :stop]
        inputs = tuple(tensor.contiguous() for tensor in (x, embedding, keys, values, at.cos, at.sin, *past))
        arrays = [tensor.numpy() for tensor in inputs]
        found = self._graphs.of(inputs).infer(arrays, share_inputs=True, share_outputs=True)
        velocity, new_keys, new_values = (torch.from_numpy(np.asarray(found[place])) for place in range(3))
        room.keys[:, :, stop:] = new_keys
        room.values[:, :, stop:] = new_values
        return velocity.clone()  # the next pass writes where it lies

    def _write(self, inputs: Inputs, folder: Path) -> None:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # of sizes that become constants: they are
            graph = openvino.convert_model(self._pass, example_input=inputs)
        for port, tensor in zip(graph.inputs, inputs, strict=True):
            port.get_node().set_partial_shape(openvino.PartialShape(list(tensor.shape)))
        graph.validate_nodes_and_infer_types()
        openvino.save_model(graph, folder / "pass.xml", compress_to_fp16=False)


def _read(folder: Path) -> openvino.InferRequest:
    core = openvino.Core()
    options = {**OPTIONS, "INFERENCE_NUM_THREADS": str(torch.get_num_threads())}
    return core.compile_model(core.read_model(folder / "pass.xml"), "CPU", options).create_infer_request()
