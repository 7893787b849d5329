"""Wan's autoencoder in pieces is diffusers' on the whole clip, and reads both layouts of its weights."""

import pytest
import torch
from diffusers import AutoencoderKLWan
from torch import Tensor

from causvid.models.autoencoder import pixel_frames
from causvid.models.wan_autoencoder import WanAutoencoder

CASES = [(16, 24, (1, 1, 3)), (40, 8, (3, 1)), (24, 8, (3, 3))]


def tiny() -> AutoencoderKLWan:
    torch.manual_seed(0)
    vae = AutoencoderKLWan(base_dim=4).eval().requires_grad_(False)
    for parameter in vae.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    return vae


@pytest.fixture(scope="module")
def autoencoder() -> WanAutoencoder:
    return WanAutoencoder(tiny())


def noise(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(1))


def moments(vae: AutoencoderKLWan) -> tuple[Tensor, Tensor]:
    return tuple(torch.tensor(getattr(vae.config, name)).view(-1, 1, 1, 1) for name in ("latents_mean", "latents_std"))


def theirs_encode(vae: AutoencoderKLWan, pixels: Tensor) -> Tensor:
    mean, std = moments(vae)
    latent = vae.encode(2 * pixels.transpose(1, 2) - 1).latent_dist.mode()
    return ((latent - mean) / std).transpose(1, 2)


def theirs_decode(vae: AutoencoderKLWan, latent: Tensor) -> Tensor:
    mean, std = moments(vae)
    return (vae.decode(latent.transpose(1, 2) * std + mean).sample.transpose(1, 2) + 1) / 2


def close(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and float((a - b).detach().abs().max()) < 1e-4


@pytest.mark.parametrize("height, width, chunks", CASES)
def test_decoding_in_pieces_is_diffusers_decoding_of_the_whole(autoencoder, height, width, chunks) -> None:
    latent = 4 * noise(2, sum(chunks), 16, height // 8, width // 8) - 2
    parts, state = [], None
    for piece in latent.split(chunks, dim=1):
        pixels, state = autoencoder.decode_chunk(piece, state)
        parts.append(pixels)
    assert [part.shape[1] for part in parts] == [4 * chunk - 3 * (i == 0) for i, chunk in enumerate(chunks)]
    whole = theirs_decode(autoencoder.vae, latent)
    assert float(whole.std()) > 0.1
    assert close(torch.cat(parts, dim=1), whole)
    assert close(autoencoder.decode(latent), whole)


@pytest.mark.parametrize("height, width, chunks", CASES)
def test_encoding_in_pieces_is_diffusers_encoding_of_the_whole(autoencoder, height, width, chunks) -> None:
    pixels = noise(2, pixel_frames(sum(chunks)), 3, height, width)
    parts, state = [], None
    for piece in pixels.split([4 * chunk - 3 * (i == 0) for i, chunk in enumerate(chunks)], dim=1):
        latent, state = autoencoder.encode_chunk(piece, state)
        parts.append(latent)
    assert [part.shape[1] for part in parts] == list(chunks)
    whole = theirs_encode(autoencoder.vae, pixels)
    assert close(torch.cat(parts, dim=1), whole)
    assert close(autoencoder.encode(pixels), whole)


@pytest.mark.parametrize("start", [1, 2])
def test_a_stream_continues_twice_from_one_state_and_leaves_it_as_it_was(autoencoder, start) -> None:
    latent = noise(1, 4, 16, 2, 3)
    pixels = noise(1, 13, 3, 16, 24)
    runs = (
        (autoencoder.decode_chunk, latent[:, :start], latent[:, start:]),
        (autoencoder.encode_chunk, pixels[:, : 4 * start - 3], pixels[:, 4 * start - 3 :]),
    )
    for step, head, tail in runs:
        _, state = step(head, None)
        before = [memory.clone() for memory in state.memories]
        assert torch.equal(step(tail, state)[0], step(tail, state)[0])
        assert all(torch.equal(a, b) for a, b in zip(before, state.memories, strict=True))


def test_diffusers_own_memory_is_untouched(autoencoder) -> None:
    autoencoder.vae.clear_cache()
    autoencoder.decode(noise(1, 2, 16, 2, 3))
    autoencoder.encode(noise(1, 5, 3, 16, 24))
    assert all(memory is None for memory in (*autoencoder.vae._feat_map, *autoencoder.vae._enc_feat_map))


def test_in_half_precision_the_moments_stay_exact_and_types_follow_the_input() -> None:
    autoencoder = WanAutoencoder(tiny()).to(torch.bfloat16)
    assert autoencoder.vae.dtype == torch.bfloat16
    assert autoencoder._std.dtype == torch.float32 and autoencoder._std[0].item() == pytest.approx(2.8184)
    latent = noise(1, 2, 16, 2, 3)
    assert autoencoder.decode(latent).dtype == torch.float32
    assert autoencoder.encode(noise(1, 5, 3, 16, 24).bfloat16()).dtype == torch.bfloat16
    assert autoencoder.to("meta")._mean.device.type == "meta"


def test_errors_name_the_value_and_what_was_expected(autoencoder) -> None:
    with pytest.raises(ValueError, match="height=20 is not a multiple of 8"):
        autoencoder.encode(noise(1, 5, 3, 20, 24))
    with pytest.raises(ValueError, match="frames=4 is not 1 plus a multiple of 4"):
        autoencoder.encode(noise(1, 4, 3, 16, 24))
    _, state = autoencoder.decode_chunk(noise(1, 1, 16, 2, 3), None)
    with pytest.raises(ValueError, match="does not continue"):
        autoencoder.decode_chunk(noise(1, 1, 16, 2, 2), state)
    with pytest.raises(ValueError, match="does not continue"):
        autoencoder.encode_chunk(noise(1, 4, 3, 16, 24), state)
    with pytest.raises(ValueError, match=r"Wan 2\.2"):
        WanAutoencoder(AutoencoderKLWan(base_dim=4, is_residual=True))
    with pytest.raises(ValueError, match="expected z_dim=4"):
        WanAutoencoder(AutoencoderKLWan(base_dim=4, z_dim=4))
