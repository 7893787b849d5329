"""The same weights are the same model here and in diffusers."""

import pytest
import torch
from torch import Tensor

from causvid.config import TransformerConfig
from causvid.models import weights
from causvid.models.transformer import Transformer

CONFIG = TransformerConfig(
    dim=48, heads=2, layers=2, ffn_dim=80, text_dim=20, in_channels=5, out_channels=5, freq_dim=32
)
SIZES = [(3, 6, 10), (4, 10, 4)]


def randomise(model: torch.nn.Module, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            norm = "norm" in name and name.endswith("weight")
            p.copy_((0.2 if norm else p.shape[-1] ** -0.5) * torch.randn(p.shape, generator=generator) + norm)


def ours(seed: int = 0) -> Transformer:
    model = Transformer(CONFIG).eval()
    randomise(model, seed)
    return model


def theirs() -> torch.nn.Module:
    from diffusers import WanTransformer3DModel

    settings = weights.to_diffusers_config(CONFIG)
    return WanTransformer3DModel(**{k: v for k, v in settings.items() if k != "_class_name"}).eval()


def inputs(frames: int, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, frames, 5, height, width, generator=generator)
    return x, torch.rand(2, frames, generator=generator), torch.randn(2, 7, 20, generator=generator)


@torch.no_grad()
def difference(a: Transformer, b: torch.nn.Module, size: tuple[int, int, int], *, per_frame: bool) -> float:
    x, sigma, text = inputs(*size)
    if per_frame:
        timestep = 1000 * sigma.repeat_interleave(size[1] * size[2] // CONFIG.patch**2, dim=1)
    else:
        sigma = sigma[:, :1].expand(-1, size[0])
        timestep = 1000 * sigma[:, 0]
    mine = a(x, sigma, a.encode_text(text))
    other = b(x.transpose(1, 2), timestep, text, return_dict=False)[0].transpose(1, 2)
    return float((mine - other).norm() / other.norm())


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("per_frame", [False, True])
def test_our_transformer_equals_that_of_diffusers_in_both_directions(
    size: tuple[int, int, int], per_frame: bool
) -> None:
    a, b = ours(), theirs()
    b.load_state_dict(weights.to_diffusers(a.state_dict(), CONFIG))
    assert difference(a, b, size, per_frame=per_frame) < 1e-4

    randomise(b, 3)
    a.load_state_dict(weights.from_diffusers(b.state_dict(), CONFIG))
    assert difference(a, b, size, per_frame=per_frame) < 1e-4


def test_the_table_names_all_weights_of_diffusers_with_their_shapes() -> None:
    real = {name: tensor.shape for name, tensor in theirs().state_dict().items()}
    assert weights.foreign_shapes(CONFIG, "diffusers") == real


def test_a_round_trip_through_either_format_keeps_every_bit() -> None:
    state = ours().state_dict()
    for there, back in ((weights.to_diffusers, weights.from_diffusers), (weights.to_wan, weights.from_wan)):
        foreign = there(state, CONFIG)
        again = back(foreign, CONFIG)
        assert len(foreign) == len(state) == len(again)
        assert all(torch.equal(state[name], again[name]) for name in state)


def test_the_norm_before_cross_attention_is_the_third_of_wan_and_the_second_of_diffusers() -> None:
    assert weights.foreign_name("blocks.1.cross_norm.weight", "wan") == "blocks.1.norm3.weight"
    assert weights.foreign_name("blocks.1.cross_norm.weight", "diffusers") == "blocks.1.norm2.weight"
    assert weights.foreign_name("head_modulation", "wan") == "head.modulation"
    assert weights.foreign_name("blocks.0.cross_attention.out.bias", "wan") == "blocks.0.cross_attn.o.bias"


def test_missing_unknown_and_misshapen_weights_are_named_in_one_line() -> None:
    state = weights.to_wan(ours().state_dict(), CONFIG)
    state["blocks.0.ffn.9.bias"] = state.pop("blocks.0.ffn.0.bias")
    state["patch_embedding.weight"] = torch.zeros(48, 5, 1, 3, 3)
    with pytest.raises(ValueError) as caught:
        weights.from_wan(state, CONFIG)
    message = str(caught.value)
    assert "\n" not in message
    assert "missing blocks.0.ffn.0.bias" in message and "unknown blocks.0.ffn.9.bias" in message
    assert "patch_embedding.weight is [48, 5, 1, 3, 3], expected [48, 5, 1, 2, 2]" in message
    with pytest.raises(ValueError, match="missing head_modulation, "):
        weights.to_wan({}, CONFIG)


def test_settings_make_the_round_trip_and_variants_are_refused() -> None:
    settings = weights.to_diffusers_config(CONFIG)
    assert weights.from_diffusers_config(settings) == CONFIG
    for name in ("attention_head_dim", "num_attention_heads", "num_layers", "ffn_dim", "text_dim", "patch_size"):
        with pytest.raises(ValueError, match=f"^{name} is missing"):
            weights.from_diffusers_config({key: value for key, value in settings.items() if key != name})
    for name, value in (
        ("_class_name", "FluxTransformer2DModel"),
        ("image_dim", 1280),
        ("patch_size", [2, 2, 2]),
        ("num_layers", -1),
        ("qk_norm", None),
    ):
        with pytest.raises(ValueError, match=name):
            weights.from_diffusers_config({**settings, name: value})
