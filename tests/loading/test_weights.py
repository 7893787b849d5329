"""The same weights are the same model here, in diffusers and in every published file."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from causvid.config import TransformerConfig
from causvid.loading import names
from causvid.loading.names import Spelling
from causvid.loading.wan_config import (
    read_config,
    to_diffusers_config,
    to_wan_config,
)
from causvid.loading.weights import build_transformer, load_transformer, sniff
from causvid.models.transformer import Transformer
from causvid.preset import load_preset

CONFIG = TransformerConfig(
    dim=48, heads=2, layers=2, ffn_dim=80, text_dim=20, in_channels=5, out_channels=5, freq_dim=32
)
WIDE = CONFIG.model_copy(update={"dim": 256})
"""Heads of 128 channels, as published models have: what no file has to say."""
SIZES = [(3, 6, 10), (4, 10, 4)]
LISTS = json.loads((Path(__file__).parent / "data" / "wan_2_1.json").read_text())
"""Names and shapes of Wan 2.1's own classes, there and in diffusers: outside the blocks, and in each."""


def randomise(model: torch.nn.Module, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            norm = "norm" in name and name.endswith("weight")
            p.copy_((0.2 if norm else p.shape[-1] ** -0.5) * torch.randn(p.shape, generator=generator) + norm)


def ours(seed: int = 0, config: TransformerConfig = CONFIG) -> Transformer:
    model = Transformer(config).eval()
    randomise(model, seed)
    return model


class Sinusoid(torch.nn.Module):
    """The sinusoid of a timestep in float64, as Wan's own code has it; diffusers computes it in fp32."""

    def forward(self, timestep: Tensor) -> Tensor:
        half = CONFIG.freq_dim // 2
        angles = timestep.double()[..., None] * 10_000.0 ** -(torch.arange(half).double() / half)
        return torch.cat((angles.cos(), angles.sin()), dim=-1).float()


def theirs(config: TransformerConfig = CONFIG) -> torch.nn.Module:
    from diffusers import WanTransformer3DModel

    settings = to_diffusers_config(config)
    model = WanTransformer3DModel(**{k: v for k, v in settings.items() if k != "_class_name"}).eval()
    model.condition_embedder.timesteps_proj = Sinusoid()
    return model


def inputs(frames: int, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, frames, 5, height, width, generator=generator)
    return x, torch.rand(2, frames, generator=generator), torch.randn(2, 7, 20, generator=generator)


def from_foreign(state: dict[str, Tensor], spelling: Spelling) -> dict[str, Tensor]:
    return {name: state[names.foreign_name(name, spelling)].view(shape) for name, shape in names.shapes(CONFIG).items()}


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
    b.load_state_dict(names.to_foreign(a.state_dict(), CONFIG, "diffusers"))
    assert difference(a, b, size, per_frame=per_frame) < 1e-6

    randomise(b, 3)
    a.load_state_dict(from_foreign(b.state_dict(), "diffusers"))
    assert difference(a, b, size, per_frame=per_frame) < 1e-6


@pytest.mark.parametrize("size", ["1.3b", "14b"])
@pytest.mark.parametrize("spelling", ["diffusers", "wan"])
def test_our_table_is_one_to_one_with_the_published_names_and_shapes(size: str, spelling: Spelling) -> None:
    listed = LISTS[size][spelling]
    published = {name: torch.Size(shape) for name, shape in listed["outside"].items()}
    for index in range(listed["layers"]):
        published |= {f"blocks.{index}.{name}": torch.Size(shape) for name, shape in listed["block"].items()}
    config = load_preset(f"wan-{size}").transformer
    assert names.foreign_shapes(config, spelling) == published
    assert len(published) == listed["tensors"]
    assert sum(shape.numel() for shape in published.values()) == listed["parameters"]
    back = {names.translate(name, spelling, "ours"): name for name in published}
    assert back.keys() == names.shapes(config).keys()
    assert all(names.foreign_name(own, spelling) == name for own, name in back.items() if own is not None)


def test_wan_and_diffusers_names_pair_up_as_diffusers_own_converter_has_them() -> None:
    from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers

    state = ours().state_dict()
    converted = convert_wan_transformer_to_diffusers(names.to_foreign(state, CONFIG, "wan"))
    expected = names.to_foreign(state, CONFIG, "diffusers")
    assert converted.keys() == expected.keys()
    assert all(torch.equal(converted[name], expected[name]) for name in expected)


def test_a_round_trip_through_either_format_keeps_every_bit() -> None:
    state = ours().state_dict()
    spellings: tuple[Spelling, ...] = ("diffusers", "wan", "ours")
    for spelling in spellings:
        foreign = names.to_foreign(state, CONFIG, spelling)
        again = from_foreign(foreign, spelling)
        assert len(foreign) == len(state) == len(again)
        assert all(torch.equal(state[name], again[name]) for name in state)


def test_the_norm_before_cross_attention_is_the_third_of_wan_and_the_second_of_diffusers() -> None:
    assert names.foreign_name("blocks.1.cross_norm.weight", "wan") == "blocks.1.norm3.weight"
    assert names.foreign_name("blocks.1.cross_norm.weight", "diffusers") == "blocks.1.norm2.weight"
    assert names.foreign_name("head_modulation", "wan") == "head.modulation"
    assert names.foreign_name("blocks.0.cross_attention.out.bias", "wan") == "blocks.0.cross_attn.o.bias"


def test_missing_unknown_and_misshapen_weights_are_named_in_one_line() -> None:
    state = names.to_foreign(ours().state_dict(), CONFIG, "wan")
    state["blocks.0.ffn.9.bias"] = state.pop("blocks.0.ffn.0.bias")
    state["patch_embedding.weight"] = torch.zeros(48, 5, 1, 3, 3)
    with pytest.raises(ValueError) as caught:
        names.check_shapes(state, names.foreign_shapes(CONFIG, "wan"))
    message = str(caught.value)
    assert "\n" not in message
    assert "missing blocks.0.ffn.0.bias" in message and "unknown blocks.0.ffn.9.bias" in message
    assert "patch_embedding.weight is [48, 5, 1, 3, 3], expected [48, 5, 1, 2, 2]" in message
    with pytest.raises(ValueError, match="missing head_modulation, "):
        names.to_foreign({}, CONFIG, "wan")


def read_back(folder: Path, settings: dict[str, Any]) -> TransformerConfig | None:
    (folder / "config.json").write_text(json.dumps(settings))
    return read_config(folder)


def test_settings_make_the_round_trip_and_variants_are_refused(tmp_path: Path) -> None:
    settings = to_diffusers_config(CONFIG)
    assert read_back(tmp_path, settings) == CONFIG
    assert read_back(tmp_path, to_wan_config(CONFIG)) == CONFIG
    for name in ("attention_head_dim", "num_attention_heads", "num_layers", "ffn_dim", "text_dim", "patch_size"):
        with pytest.raises(ValueError, match=f"{name} is missing"):
            read_back(tmp_path, {key: value for key, value in settings.items() if key != name})
    for name, value in (("image_dim", 1280), ("patch_size", [2, 2, 2]), ("num_layers", -1), ("qk_norm", None)):
        with pytest.raises(ValueError, match=rf"config\.json: {name}"):
            read_back(tmp_path, {**settings, name: value})
    with pytest.raises(ValueError, match="model_type='i2v' is not supported"):
        read_back(tmp_path, {**to_wan_config(CONFIG), "model_type": "i2v"})


@pytest.mark.parametrize("name", ["wan-1.3b", "wan-14b"])
def test_the_config_of_a_published_size_holds_what_wan_writes_and_no_more(name: str, tmp_path: Path) -> None:
    config = load_preset(name).transformer
    settings = to_wan_config(config)
    assert set(settings) == {"_class_name", "dim", "eps", "ffn_dim", "freq_dim", "in_dim", "model_type", "num_heads",
        "num_layers", "out_dim", "text_len"}  # fmt: skip
    assert read_back(tmp_path, settings) == config


def test_a_config_of_something_else_says_nothing(tmp_path: Path) -> None:
    assert read_config(tmp_path) is None
    (tmp_path / "config.json").write_text('{"_class_name": "AutoencoderKLWan"}')
    assert read_config(tmp_path) is None
    (tmp_path / "config.json").write_text(json.dumps({**to_wan_config(CONFIG), "_class_name": "CausalWanModel"}))
    assert read_config(tmp_path) == CONFIG


def wrapped(name: str) -> str:
    """Write a name as sharded training does: every block wrapped, and the whole."""
    parts = name.split(".")
    if parts[0] == "blocks":
        parts.insert(2, "_fsdp_wrapped_module")
        parts.insert(3, "_checkpoint_wrapped_module")
    return ".".join(["model", "_fsdp_wrapped_module", *parts])


def published(folder: Path, state: dict[str, Tensor], config: TransformerConfig) -> dict[str, Path]:
    """Write a transformer as each publisher does; other sections hold other values."""
    wan, diffusers = names.to_foreign(state, config, "wan"), names.to_foreign(state, config, "diffusers")
    other = {f"model.{name}": tensor + 1 for name, tensor in wan.items()}
    plain = {f"model.{name}": tensor for name, tensor in wan.items()}

    def save(name: str, content: Any, settings: dict[str, Any] | None = None) -> Path:
        file = folder / name
        file.parent.mkdir()
        if settings is not None:
            (file.parent / "config.json").write_text(json.dumps(settings))
        (save_file if name.endswith("safetensors") else torch.save)(content, file)
        return file.parent if settings else file

    return {
        "diffusers": save("d/diffusion_pytorch_model.safetensors", diffusers, to_diffusers_config(config)),
        "wan": save("w/diffusion_pytorch_model.safetensors", wan, to_wan_config(config)),
        "causvid": save("c/model.pt", {"generator": plain, "critic": other}),
        "self-forcing": save(
            "s/self_forcing_dmd.pt",
            {"generator": other, "critic": other, "generator_ema": {wrapped(k): v for k, v in wan.items()}},
        ),
        "longlive": save("l/longlive_base.pt", {"generator": {wrapped(k): v for k, v in wan.items()}, "step": 700}),
        "krea": save("k/krea-realtime-video-14b.safetensors", plain),
        "comfyui": save("f/wan.safetensors", {f"model.diffusion_{k}": v for k, v in plain.items()}),
        "compiled": save("o/it.ckpt", {"state_dict": {f"_orig_mod.module.{k}": v for k, v in wan.items()}}),
        "a run's": save("r/student.safetensors", {**state}),
    }


def test_every_published_layout_is_the_same_model_to_the_bit(tmp_path: Path) -> None:
    state = ours(config=WIDE).state_dict()
    layouts = set()
    for publisher, path in published(tmp_path, state, WIDE).items():
        model = load_transformer(path)
        assert model.config == WIDE and not model.training, publisher
        found = model.state_dict()
        assert all(torch.equal(found[name], tensor) for name, tensor in state.items()), publisher
        layouts.add(sniff(path).spelling)
    assert layouts == {"diffusers", "wan", "ours"}


def test_another_section_is_read_when_it_is_asked_for(tmp_path: Path) -> None:
    state = ours(config=WIDE).state_dict()
    path = published(tmp_path, state, WIDE)["self-forcing"]
    name = "blocks.1.self_attention.query.weight"
    assert torch.equal(load_transformer(path, section="critic").state_dict()[name], state[name] + 1)
    with pytest.raises(ValueError, match=r"section=ema is not in .*, which has generator, critic, generator_ema"):
        load_transformer(path, section="ema")


@torch.no_grad()
def test_in_bf16_it_is_as_close_to_diffusers_as_rounding_allows(tmp_path: Path) -> None:
    reference, b = ours(config=WIDE), theirs(WIDE).to(torch.bfloat16)
    state = {name: tensor.to(torch.bfloat16) for name, tensor in reference.state_dict().items()}
    b.load_state_dict(names.to_foreign(state, WIDE, "diffusers"))
    a = load_transformer(published(tmp_path, state, WIDE)["wan"])
    assert {p.dtype for p in a.parameters()} == {torch.bfloat16}
    x, sigma, text = inputs(3, 6, 10)
    sigma = sigma[:, :1].expand(-1, 3)
    exact = reference(x, sigma, reference.encode_text(text))
    mine = a(x, sigma, a.encode_text(text.bfloat16()))
    other = b(x.transpose(1, 2).bfloat16(), 1000 * sigma[:, 0], text.bfloat16(), return_dict=False)[0].transpose(1, 2)
    errors = [float((it.float() - exact).norm() / exact.norm()) for it in (mine, other)]
    assert errors[0] < 1.5 * errors[1] < 0.1


def test_eight_bit_weights_are_read_with_their_factors_and_as_they_are_without(tmp_path: Path) -> None:
    state = names.to_foreign(ours(config=WIDE).state_dict(), WIDE, "wan")
    linear = [name for name in state if name.endswith(".weight") and state[name].ndim == 2]
    plain = {name: t.to(torch.float8_e4m3fn if name in linear else torch.bfloat16) for name, t in state.items()}
    save_file(plain, tmp_path / "plain.safetensors")
    model = load_transformer(tmp_path / "plain.safetensors")
    name = "blocks.1.feed_forward.2.weight"
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert torch.equal(model.state_dict()[name], plain["blocks.1.ffn.2.weight"].bfloat16())

    for scale, rows in ((".scale_weight", 1), (".weight_scale", None)):
        scaled: dict[str, Tensor] = {"scaled_fp8": torch.zeros(2, dtype=torch.float8_e4m3fn), **plain}
        for number, name in enumerate(linear):
            factor = 0.5 + number / 8 + torch.rand(rows or len(state[name]), generator=torch.Generator().manual_seed(0))
            scaled[name] = (state[name] / factor[:, None]).to(torch.float8_e4m3fn)
            scaled[name.removesuffix(".weight") + scale] = factor
            scaled[name.removesuffix(".weight") + ".scale_input"] = torch.ones(1)
        save_file(scaled, tmp_path / "scaled.safetensors")
        found = load_transformer(tmp_path / "scaled.safetensors").state_dict()
        for name in linear:
            own = names.translate(name, "wan", "ours")
            assert own is not None
            assert (found[own].float() - state[name]).norm() < 0.04 * state[name].norm()


def test_sizes_come_from_config_json_or_else_from_shapes(tmp_path: Path) -> None:
    state = names.to_foreign(ours().state_dict(), CONFIG, "wan")
    save_file(state, tmp_path / "it.safetensors")
    with pytest.raises(ValueError, match=r"dim=48 is no multiple of 128.*config\.json"):
        load_transformer(tmp_path / "it.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(to_wan_config(CONFIG)))
    assert load_transformer(tmp_path / "it.safetensors").config == CONFIG


def test_a_model_is_made_of_the_tensors_it_is_given_and_no_others() -> None:
    state = ours().state_dict()
    model = build_transformer(CONFIG, state)
    assert all(p.data_ptr() == state[name].data_ptr() for name, p in model.named_parameters())
