"""Weights of other programs load: in any wrapper, with tables beside them, in 8 bits and in GGUF."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from causvid.config import TransformerConfig
from causvid.loading import names
from causvid.loading.layout import find_layout
from causvid.loading.text import _read_umt5, read_umt5_config
from causvid.loading.weights import load_transformer, sniff
from causvid.models.transformer import Transformer

SAMPLES = Path(__file__).parents[1] / "samples"
CONFIG = TransformerConfig(
    dim=256, heads=2, layers=2, ffn_dim=160, text_dim=32, in_channels=4, out_channels=4, freq_dim=32
)


def wan() -> dict[str, Tensor]:
    model = Transformer(CONFIG)
    generator = torch.Generator().manual_seed(0)
    model.initialise(generator)
    torch.nn.init.normal_(model.head.weight, std=0.1, generator=generator)
    return names.to_foreign(model.state_dict(), CONFIG, "wan")


def same(model: Transformer, share: float = 0.0) -> bool:
    """Tell whether all weights are those of `wan`, up to a share of their norm."""
    found = names.to_foreign(model.state_dict(), CONFIG, "wan")
    return all((found[name].float() - t).norm() <= share * t.norm() for name, t in wan().items())


@pytest.mark.parametrize(
    "prefix",
    ["dit.", "pipe.dit.", "net.", "model.net.", "transformer.", "model.diffusion_model.", "module.ema.student."],
)
def test_weights_in_any_wrapper_load(tmp_path: Path, prefix: str) -> None:
    save_file({f"{prefix}{name}": tensor for name, tensor in wan().items()}, tmp_path / "it.safetensors")
    assert same(load_transformer(tmp_path / "it.safetensors"))


@pytest.mark.parametrize("name", ["freqs", "rope.freqs_cos", "model.freqs_cis", "rotary.inv_freq"])
def test_tables_of_angles_beside_the_weights_are_passed_over(tmp_path: Path, name: str) -> None:
    kind = torch.complex64 if name == "freqs" else torch.float32
    save_file({**wan(), name: torch.ones(8, 4, dtype=kind)}, tmp_path / "it.safetensors")
    assert same(load_transformer(tmp_path / "it.safetensors"))


def eight_bits(state: dict[str, Tensor], end: str, kind: torch.dtype) -> dict[str, Tensor]:
    """Store matrices in 8 bits with a factor a row, or a block of 128 × 128 for `weight_scale_inv`."""
    most, stored = (127.0 if kind == torch.int8 else 448.0), dict(state)
    for name, weight in state.items():
        if weight.ndim != 2 or not name.endswith(".weight"):
            continue
        if end == ".weight_scale_inv":
            blocks = [[part.abs().max() for part in rows.split(128, 1)] for rows in weight.split(128)]
            factor = torch.tensor(blocks) / most
            whole = factor.repeat_interleave(128, 0)[: len(weight)].repeat_interleave(128, 1)[:, : weight.shape[1]]
        else:
            factor = whole = weight.abs().amax(1, keepdim=True) / most
        scaled = weight / whole
        stored[name] = (scaled.round() if kind == torch.int8 else scaled).to(kind)
        stored[name.removesuffix(".weight") + end] = factor * 127 if end == ".SCB" else factor
    return stored


@pytest.mark.parametrize(
    ("end", "kind"),
    [
        (".weight_scale_inv", torch.float8_e4m3fn),
        (".weight_scale", torch.float8_e4m3fn),
        (".weight_scale", torch.int8),
        (".scale_weight", torch.int8),
        (".SCB", torch.int8),
    ],
)
def test_weights_of_8_bits_are_multiplied_by_their_factors(tmp_path: Path, end: str, kind: torch.dtype) -> None:
    save_file(eight_bits(wan(), end, kind), tmp_path / "it.safetensors")
    assert same(load_transformer(tmp_path / "it.safetensors"), share=0.04)


def test_whole_numbers_without_a_factor_are_refused(tmp_path: Path) -> None:
    state = {name: t for name, t in eight_bits(wan(), ".SCB", torch.int8).items() if not name.endswith("0.SCB")}
    save_file(state, tmp_path / "it.safetensors")
    with pytest.raises(ValueError, match="is int8, but its factor is missing"):
        sniff(tmp_path / "it.safetensors")


def write_gguf(file: Path, kind: str) -> Path:
    gguf = pytest.importorskip("gguf")
    writer, quantised = gguf.GGUFWriter(file, "wan"), gguf.GGMLQuantizationType[kind]
    for name, tensor in wan().items():
        values = tensor.numpy()
        if values.ndim > 4:
            writer.add_array(f"comfy.gguf.orig_shape.{name}", list(values.shape))
            values = values.reshape(values.shape[0], -1)
        if values.ndim == 2 and values.shape[1] % 32 == 0:
            writer.add_tensor(name, gguf.quantize(values, quantised), raw_dtype=quantised)
        else:
            writer.add_tensor(name, np.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


@pytest.mark.parametrize(("kind", "share"), [("F32", 1e-6), ("BF16", 0.004), ("Q8_0", 0.01), ("Q4_0", 0.15)])
def test_gguf_loads(tmp_path: Path, kind: str, share: float) -> None:
    assert same(load_transformer(write_gguf(tmp_path / "it.gguf", kind), dtype=torch.float32), share=share)


def test_damaged_gguf_is_one_line(tmp_path: Path) -> None:
    whole = write_gguf(tmp_path / "it.gguf", "Q8_0").read_bytes()
    for number in range(60):
        data = bytearray(whole[: len(whole) * number // 60] if number % 2 else whole)
        if data:
            data[number * 7 % min(len(data), 400)] ^= 255
        (tmp_path / "it.gguf").write_bytes(data)
        try:
            load_transformer(tmp_path / "it.gguf")
        except ValueError as error:
            assert "\n" not in str(error)


def test_gguf_without_its_package_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_gguf(tmp_path / "it.gguf", "F32")
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ValueError, match=r"pip install 'causvid\[gguf\]'"):
        load_transformer(file)


def test_a_text_encoder_in_one_file_of_comfyui_loads() -> None:
    config = read_umt5_config(SAMPLES / "comfy_fp16.safetensors")
    assert (config.num_layers, config.d_model, config.num_heads, config.d_ff) == (2, 64, 1, 128)
    encoder = _read_umt5(SAMPLES / "comfy_fp16.safetensors", torch.float32, "cpu")
    with safe_open(SAMPLES / "comfy_fp16.safetensors", "pt") as file:
        name = "encoder.block.1.layer.1.DenseReluDense.wi_0.weight"
        assert torch.equal(encoder.state_dict()[name], file.get_tensor(name).float())


@pytest.mark.parametrize("beside", ["scaled_fp8", "shared.scale_weight", "shared.weight_scale", "shared.comfy_quant"])
def test_a_text_encoder_in_scaled_fp8_is_refused_by_name(tmp_path: Path, beside: str) -> None:
    save_file({**load_file(SAMPLES / "comfy_fp16.safetensors"), beside: torch.ones(1)}, tmp_path / "it.safetensors")
    with pytest.raises(ValueError, match="in scaled fp8, which is not read: use one of fp16 or bf16"):
        read_umt5_config(tmp_path / "it.safetensors")


def test_a_folder_of_parts_of_comfyui_is_found(tmp_path: Path) -> None:
    shutil.copyfile(SAMPLES / "comfy_fp16.safetensors", tmp_path / "umt5_xxl_fp16.safetensors")
    (tmp_path / "wan_2.1_vae.safetensors").touch()
    layout = find_layout(tmp_path)
    assert (layout.kind, layout.text_encoder.name) == ("wan", "umt5_xxl_fp16.safetensors")
    assert layout.autoencoder.name == "wan_2.1_vae.safetensors"
