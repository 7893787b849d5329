"""A LoRA adds strength · alpha / r · up @ down to the layers it names, in whatever spelling."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from causvid.config import TransformerConfig
from causvid.loading.lora import Pair, merge_lora, read_lora
from causvid.loading.names import foreign_name
from causvid.models.transformer import Transformer

CONFIG = TransformerConfig(
    dim=24, heads=2, layers=2, ffn_dim=40, text_dim=20, in_channels=5, out_channels=5, freq_dim=32
)
RANKS = {
    "blocks.0.self_attention.query": 3,
    "blocks.1.cross_attention.out": 2,
    "blocks.1.feed_forward.0": 4,
    "text_in.2": 3,
    "time_modulation.1": 2,
    "head": 3,
    "patch_in": 2,
}
Matrices = dict[str, tuple[Tensor, Tensor]]
Naming = Callable[[str, Tensor, Tensor], dict[str, Tensor]]


def model() -> Transformer:
    transformer = Transformer(CONFIG).eval()
    generator = torch.Generator().manual_seed(0)
    transformer.initialise(generator)
    torch.nn.init.normal_(transformer.head.weight, generator=generator)
    return transformer


def matrices() -> Matrices:
    """Down `[r, N]` and up `[M, r]` by layer."""
    generator = torch.Generator().manual_seed(1)
    shapes = {name: model().get_submodule(name).weight.shape for name in RANKS}
    return {
        name: (
            torch.randn(r, shapes[name][1], generator=generator),
            torch.randn(shapes[name][0], r, generator=generator),
        )
        for name, r in RANKS.items()
    }


def write(file: Path, naming: Naming, pairs: Matrices | None = None) -> Path:
    state: dict[str, Tensor] = {}
    for name, (down, up) in (pairs or matrices()).items():
        state |= naming(name, down, up)
    file.parent.mkdir(exist_ok=True)
    if file.suffix == ".pt":
        torch.save({"generator_lora": state, "critic_lora": {k: 2 * v for k, v in state.items()}, "step": 3}, file)
    else:
        save_file(state, file)
    return file


def convolutions(name: str, down: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    return (down.view(-1, 5, 1, 2, 2), up[..., None, None, None]) if name == "patch_in" else (down, up)


def plain(name: str, down: Tensor, up: Tensor) -> dict[str, Tensor]:
    return {f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up}


def diffusers(name: str, down: Tensor, up: Tensor) -> dict[str, Tensor]:
    return plain(f"transformer.{foreign_name(name, 'diffusers')}", *convolutions(name, down, up))


def peft(name: str, down: Tensor, up: Tensor) -> dict[str, Tensor]:
    down, up = convolutions(name, down, up)
    stem = f"base_model.model.{foreign_name(name, 'wan')}"
    return {f"{stem}.lora_A.default.weight": down, f"{stem}.lora_B.default.weight": up}


def wrapped(name: str, down: Tensor, up: Tensor) -> dict[str, Tensor]:
    stem = foreign_name(name, "wan").replace("blocks.1.", "blocks.1._fsdp_wrapped_module.")
    return plain(f"base_model.model.model.{stem}", *convolutions(name, down, up))


def comfy(name: str, down: Tensor, up: Tensor) -> dict[str, Tensor]:
    down, up = convolutions(name, down, up)
    stem = f"diffusion_model.{foreign_name(name, 'wan')}"
    return {
        f"{stem}.lora_down.weight": down,
        f"{stem}.lora_up.weight": up,
        f"{stem}.alpha": torch.tensor(float(len(down))),
    }


def kohya(name: str, down: Tensor, up: Tensor) -> dict[str, Tensor]:
    stem = foreign_name(name, "wan")
    return {
        k.replace(f"diffusion_model.{stem}", f"lora_unet_{stem.replace('.', '_')}"): v
        for k, v in comfy(name, down, up).items()
    }


@pytest.mark.parametrize("naming", [plain, diffusers, peft, wrapped, comfy, kohya])
@pytest.mark.parametrize("strength", [1.0, -0.4])
def test_merging_adds_the_scaled_product_in_every_naming(tmp_path: Path, naming: Naming, strength: float) -> None:
    file = write(tmp_path / ("lora.pt" if naming is wrapped else "lora.safetensors"), naming)
    merged, base = model(), model().state_dict()
    merge_lora(merged, read_lora(file), strength=strength)
    expected = dict(base)
    for name, (down, up) in matrices().items():
        expected[f"{name}.weight"] = base[f"{name}.weight"] + strength * up @ down
    assert list(merged.state_dict()) == list(base)
    for name, tensor in merged.state_dict().items():
        torch.testing.assert_close(tensor, expected[name])
        assert torch.equal(tensor, base[name]) == (name.removesuffix(".weight") not in RANKS)
    assert all(type(merged.get_submodule(name)) is torch.nn.Linear for name in RANKS)
    assert all(parameter.requires_grad for parameter in merged.parameters())


def test_alpha_comes_from_the_file_the_settings_or_the_rank(tmp_path: Path) -> None:
    def scales(file: Path) -> list[float]:
        return [change.scale for _, change in read_lora(file).changes if isinstance(change, Pair)]

    layers = ("blocks.0.self_attention.query", "blocks.1.cross_attention.out")
    pairs = {name: matrices()[name] for name in layers}
    file = write(tmp_path / "peft" / "adapter_model.safetensors", peft, pairs)
    assert scales(file) == [1, 1]
    settings = {"peft_type": "LORA", "lora_alpha": 12, "alpha_pattern": {"cross_attn.o": 5}, "target_modules": "q"}
    (file.parent / "adapter_config.json").write_text(json.dumps(settings))
    assert scales(file) == scales(file.parent) == [4, 2.5]
    (file.parent / "adapter_config.json").write_text(json.dumps({**settings, "use_rslora": True}))
    assert scales(file) == pytest.approx([12 / 3**0.5, 5 / 2**0.5])

    half = write(
        tmp_path / "lora.safetensors", lambda *a: {k: v / 2 if "alpha" in k else v for k, v in comfy(*a).items()}
    )
    assert set(scales(half)) == {0.5}


def test_whole_differences_are_added_too(tmp_path: Path) -> None:
    changes = {
        "blocks.0.self_attn.q.diff_b": ("blocks.0.self_attention.query.bias", torch.randn(24)),
        "blocks.1.norm3.diff": ("blocks.1.cross_norm.weight", torch.randn(24)),
        "blocks.1.diff_m": ("blocks.1.modulation", torch.randn(1, 6, 24)),
        "head.diff_m": ("head_modulation", torch.randn(1, 2, 24)),
        "patch_embedding.diff": ("patch_in.weight", torch.randn(24, 5, 1, 2, 2)),
    }
    pairs = {"head": matrices()["head"]}
    extra = {f"diffusion_model.{name}": value for name, (_, value) in changes.items()}
    file = write(tmp_path / "lora.safetensors", lambda *a: comfy(*a) | extra, pairs)
    merged, base = model(), model().state_dict()
    merge_lora(merged, read_lora(file), strength=0.5)
    for name, value in changes.values():
        torch.testing.assert_close(merged.state_dict()[name], base[name] + 0.5 * value.reshape(base[name].shape))


def test_a_layer_may_have_both_a_pair_and_a_difference(tmp_path: Path) -> None:
    down, up = matrices()["head"]
    whole = torch.randn(20, 24)
    file = write(tmp_path / "lora.safetensors", lambda *a: {**plain(*a), "head.diff": whole}, {"head": (down, up)})
    merged, base = model(), model().state_dict()
    merge_lora(merged, read_lora(file))
    torch.testing.assert_close(merged.head.weight.data, base["head.weight"] + up @ down + whole)


def test_half_precision_weights_are_rounded_once(tmp_path: Path) -> None:
    file = write(tmp_path / "lora.safetensors", plain)
    merged = model().bfloat16()
    base = {name: tensor.float() for name, tensor in merged.state_dict().items()}
    merge_lora(merged, read_lora(file), strength=0.7)
    for name, (down, up) in matrices().items():
        exact = base[f"{name}.weight"] + 0.7 * up @ down
        error = (merged.get_submodule(name).weight.float() - exact).abs()
        assert bool((error <= exact.abs() * 2**-8 + 1e-6).all())


def test_a_lora_for_another_model_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    down, up = matrices()["blocks.0.self_attention.query"]
    cases = {
        r"blocks\.0\.self_attn\.q changes a weight of \[24, 32\], but the model's is \[24, 24\]": {
            "blocks.0.self_attention.query": (torch.randn(3, 32), up)
        },
        r"blocks\.7\.self_attn\.q is not in the model, which has 2 blocks of width 24": {
            "blocks.7.self_attention.query": (down, up)
        },
    }
    for number, (message, wrong) in enumerate(cases.items()):
        file = write(tmp_path / f"{number}.safetensors", comfy, {"head": matrices()["head"], **wrong})
        transformer, base = model(), model().state_dict()
        with pytest.raises(ValueError, match=message) as caught:
            merge_lora(transformer, read_lora(file))
        assert "\n" not in str(caught.value) and file.name in str(caught.value)
        assert all(torch.equal(tensor, base[name]) for name, tensor in transformer.state_dict().items())


def test_files_that_are_no_plain_lora_are_refused(tmp_path: Path) -> None:
    down, up = matrices()["head"]

    def refused(state: dict[str, Tensor], message: str) -> None:
        save_file(state, tmp_path / "lora.safetensors")
        with pytest.raises(ValueError, match=message):
            read_lora(tmp_path / "lora.safetensors")

    refused({"head.weight": down}, "holds no LoRA")
    refused({"head.lora_A.weight": down}, r"head\.lora_A\.weight has no counterpart")
    refused({"head.lora_A.weight": down, "head.lora_B.weight": up[:, :2].clone()}, "no product")
    refused({**plain("head", down, up), "head.dora_scale": up[0].clone()}, r"head\.dora_scale is no part of a LoRA")
    refused({**plain("head", down, up), "tail.alpha": torch.tensor(1.0)}, r"tail\.alpha is no part of a LoRA")
    refused({**plain("head", down, up), "head.lora_A.b.weight": down.clone()}, "there are two adapters")
    file = write(tmp_path / "peft" / "adapter_model.safetensors", plain)
    for settings, message in (({"peft_type": "IA3"}, "peft_type=IA3"), ({"use_dora": True}, "use_dora")):
        (file.parent / "adapter_config.json").write_text(json.dumps(settings))
        with pytest.raises(ValueError, match=message):
            read_lora(file)
