"""An autoencoder comes back from files bit for bit: tiny ones, and Wan's in both spellings."""

import re
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLWan
from safetensors.torch import save_file

from causvid.config import AutoencoderConfig
from causvid.loading.autoencoders import (
    read_autoencoder,
    read_tiny_autoencoder,
    read_wan_autoencoder,
    write_autoencoder,
)
from causvid.models.tiny_autoencoder import TinyAutoencoder
from causvid.models.wan_autoencoder import WanAutoencoder


@pytest.fixture(scope="module")
def autoencoder() -> WanAutoencoder:
    torch.manual_seed(0)
    return WanAutoencoder(AutoencoderKLWan(base_dim=4).eval().requires_grad_(False))


def test_a_tiny_autoencoder_comes_back_as_it_was(tmp_path: Path) -> None:
    config = AutoencoderConfig(encoder_widths=(4, 4, 4, 4), decoder_widths=(4, 4, 4, 4), blocks=1, padding="first")
    own = TinyAutoencoder(config)
    write_autoencoder(tmp_path / "vae", own, dtype=torch.float32)
    again = read_autoencoder(tmp_path / "vae")
    assert isinstance(again, TinyAutoencoder) and again.config == config
    assert all(torch.equal(tensor, own.state_dict()[name]) for name, tensor in again.state_dict().items())


@pytest.mark.parametrize("name", ["taew2_1.pth", "taew2_1.safetensors"])
def test_a_published_file_loads_by_name_and_shape_alone(tmp_path, name):
    def write(state):
        (torch.save if name.endswith(".pth") else save_file)(state, tmp_path / name)
        return tmp_path / name

    generator = torch.Generator().manual_seed(2)
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in TinyAutoencoder(AutoencoderConfig()).state_dict().items()}
    state = {name: torch.randn(shape, generator=generator).half() for name, shape in shapes.items()}
    model = read_tiny_autoencoder(write(state))
    assert model.dtype == torch.float16 and not model.training
    again = read_tiny_autoencoder(write(state), dtype=torch.float32)
    assert all(torch.equal(value, state[name].float()) for name, value in again.state_dict().items())

    for wrong, message in (
        ({**state, "decoder.22.weight": torch.zeros(12, 64, 3, 3)}, r"decoder\.22\.weight is \[12.*expected \[3, 64"),
        ({k: v for k, v in state.items() if k != "encoder.0.bias"}, r"missing encoder\.0\.bias"),
        ({**state, "head.weight": torch.zeros(1)}, r"unknown head\.weight"),
    ):
        with pytest.raises(ValueError, match=rf"{name} is not the autoencoder of taew2_1: .*{message}"):
            read_tiny_autoencoder(write(wrong))


def test_saved_and_loaded_is_the_same_here_and_in_diffusers(autoencoder, tmp_path: Path) -> None:
    write_autoencoder(tmp_path / "vae", autoencoder, dtype=torch.float32)
    own = autoencoder.vae.state_dict()
    for again in (read_wan_autoencoder(tmp_path / "vae").vae, AutoencoderKLWan.from_pretrained(tmp_path / "vae")):
        assert all(torch.equal(tensor, own[name]) for name, tensor in again.state_dict().items())
    assert read_wan_autoencoder(tmp_path / "vae", dtype=torch.bfloat16).vae.dtype == torch.bfloat16


RESIDUAL = {"norm1": "residual.0", "conv1": "residual.2", "norm2": "residual.3", "conv2": "residual.6"}


def original_name(name: str) -> str:
    """Spell a name of diffusers' as Wan 2.1's own code does: stages are counted through, blocks are sequences."""
    name = re.sub(r"^(quant_conv|post_quant_conv)", lambda m: {"quant_conv": "conv1"}.get(m[0], "conv2"), name)
    name = re.sub(r"^(encoder|decoder)\.conv_in", r"\1.conv1", name)
    name = name.replace("norm_out", "head.0").replace("conv_out", "head.2")
    name = name.replace("mid_block.attentions.0", "middle.1")
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"middle.{2 * int(m[1])}", name)
    name = name.replace("down_blocks", "downsamples")
    name = re.sub(r"up_blocks\.(\d)\.resnets\.(\d)", lambda m: f"upsamples.{4 * int(m[1]) + int(m[2])}", name)
    name = re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"upsamples.{4 * int(m[1]) + 3}", name)
    name = name.replace("conv_shortcut", "shortcut")
    if re.search(r"(middle|samples)\.\d+\.(norm|conv)\d", name):
        name = re.sub(r"\.((norm|conv)[12])\.", lambda m: f".{RESIDUAL[m[1]]}.", name)
    return name


def test_the_original_file_is_the_same_model(autoencoder, tmp_path: Path) -> None:
    state = {original_name(name): tensor for name, tensor in autoencoder.vae.state_dict().items()}
    # A sample of the names in Wan2.1_VAE.pth.
    assert {
        "encoder.conv1.weight",
        "encoder.downsamples.3.residual.2.weight",
        "encoder.downsamples.3.shortcut.bias",
        "encoder.downsamples.5.time_conv.weight",
        "encoder.downsamples.2.resample.1.bias",
        "encoder.middle.1.to_qkv.weight",
        "encoder.middle.2.residual.6.weight",
        "encoder.head.0.gamma",
        "conv1.weight",
        "conv2.bias",
        "decoder.upsamples.4.shortcut.weight",
        "decoder.upsamples.3.time_conv.bias",
        "decoder.upsamples.11.resample.1.weight",
        "decoder.upsamples.14.residual.3.gamma",
        "decoder.head.2.weight",
    } <= set(state)
    torch.save(state, tmp_path / "Wan2.1_VAE.pth")
    again = read_wan_autoencoder(tmp_path / "Wan2.1_VAE.pth").vae.state_dict()
    own = autoencoder.vae.state_dict()
    assert set(again) == set(own)
    assert all(torch.equal(again[name], tensor) for name, tensor in own.items())


def test_weights_of_something_else_are_refused(autoencoder, tmp_path: Path) -> None:
    write_autoencoder(tmp_path / "vae", autoencoder, dtype=torch.float32)
    config = tmp_path / "vae" / "config.json"
    config.write_text(config.read_text().replace('"base_dim": 4', '"base_dim": 8'))
    with pytest.raises(ValueError, match=r"vae: the weights do not fit: .*expected \[8"):
        read_wan_autoencoder(tmp_path / "vae")
    config.write_text(config.read_text().replace("AutoencoderKLWan", "AutoencoderKL"))
    with pytest.raises(ValueError, match="_class_name='AutoencoderKL'"):
        read_wan_autoencoder(tmp_path / "vae")
    torch.save({"decoder.1.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"other\.pth: the weights do not fit: missing encoder"):
        read_wan_autoencoder(tmp_path / "other.pth")
