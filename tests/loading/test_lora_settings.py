"""A LoRA counts as much as its own settings say, wherever they stand: in tensors, in the header, beside the file."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from causvid.config import TransformerConfig
from causvid.loading.lora import Pair, merge_lora, merge_loras, read_lora
from causvid.loading.spec import ModelSpec
from causvid.models.transformer import Transformer
from causvid.pipeline import Pipeline

SAMPLES = Path(__file__).parents[1] / "samples"
CONFIG = TransformerConfig(
    dim=128, heads=1, layers=2, ffn_dim=24, text_dim=8, in_channels=4, out_channels=4, freq_dim=32
)
LAYER = "blocks.0.self_attn.q"


def model() -> Transformer:
    transformer = Transformer(CONFIG).eval()
    transformer.initialise(torch.Generator().manual_seed(0))
    return transformer


def write(file: Path, layer: str = LAYER, header: dict[str, str] | None = None, rank: int = 4) -> Path:
    file.parent.mkdir(exist_ok=True)
    generator = torch.Generator().manual_seed(1)
    pair = {
        f"{layer}.lora_A.weight": torch.randn(rank, 128, generator=generator),
        f"{layer}.lora_B.weight": torch.randn(128, rank, generator=generator),
    }
    save_file(pair, file, metadata=header)
    return file


def scales(file: Path) -> list[float]:
    return [change.scale for _, change in read_lora(file).changes if isinstance(change, Pair)]


@pytest.mark.parametrize(
    ("name", "scale"),
    [
        ("meta_plain_alpha16.safetensors", 4),
        ("meta_diffusers_alpha16_r4.safetensors", 4),
        ("meta_rank_alpha_lightx2v.safetensors", 0.5),
        ("alpha_pattern_regex", 2),
        ("nano_meta64.safetensors", 16),
        ("nano_alpha64.safetensors", 16),
        ("nano_plain.safetensors", 1),
    ],
)
def test_published_settings_give_their_scale(name: str, scale: float) -> None:
    assert set(scales(SAMPLES / name)) == {scale}


@pytest.mark.parametrize(
    ("header", "scale"),
    [
        ({"ss_network_alpha": "8.0", "ss_network_dim": "4"}, 2),
        ({"ss_network_alpha": "None", "ss_network_dim": "Dynamic"}, 1),
        ({"lora_alpha": "8", "use_rslora": "true"}, 4),
        ({"lora_adapter_metadata": json.dumps({"lora_alpha": 8, "use_rslora": True})}, 4),
        ({"lora_adapter_metadata": json.dumps({"transformer.lora_alpha": 8, "text_encoder.lora_alpha": 99})}, 2),
        ({"adapter_config": json.dumps({"r": 4, "lora_alpha": 12})}, 3),
        ({"lora_alpha": "1", "alpha_pattern": json.dumps({"self_attn.q": 8})}, 2),
        ({"lora_alpha": "8", "r": "64", "rank_pattern": json.dumps({r"^blocks\.0\..*": 4})}, 2),
    ],
)
def test_settings_in_the_header_give_the_scale(tmp_path: Path, header: dict[str, str], scale: float) -> None:
    assert scales(write(tmp_path / "it.safetensors", header=header)) == [scale]


@pytest.mark.parametrize(
    ("pattern", "scale"),
    [
        (r"blocks\.[0-3]\..*q", 2),
        (r"^blocks\.0\.self_attn\.(q|k)", 2),
        (r".*q", 2),
        ("self_attn.q", 2),
        (r"blocks\.[1-3]\..*q", 4),
        ("attn.q", 4),
        ("self_attn", 4),
    ],
)
def test_patterns_are_regular_expressions_for_the_end_of_a_name(tmp_path: Path, pattern: str, scale: float) -> None:
    file = write(tmp_path / "it" / "adapter_model.safetensors", f"base_model.model.{LAYER}")
    settings = {"peft_type": "LORA", "r": 4, "lora_alpha": 16, "alpha_pattern": {pattern: 8}}
    (file.parent / "adapter_config.json").write_text(json.dumps(settings))
    assert scales(file) == [scale]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"lora_alpha": "much"}, "lora_alpha"),
        ({"lora_alpha": "nan"}, "lora_alpha"),
        ({"lora_alpha": "1e300"}, "lora_alpha"),
        ({"r": "8", "lora_alpha": "8"}, "is of rank 4, but its settings state 8"),
        ({"lora_adapter_metadata": "{"}, "lora_adapter_metadata in its header is not JSON"),
        ({"lora_adapter_metadata": "[1]"}, "is not a JSON object"),
        ({"use_dora": "true"}, "use_dora"),
        ({"alpha_pattern": '{"(a": 8}'}, "is no regular expression"),
        ({"alpha_pattern": '{"(a+)+$": 8}'}, "too complex"),
        ({"alpha_pattern": '{".*.*.*.*x": 8}'}, "too complex"),
        ({"alpha_pattern": json.dumps({"a?" * 40 + "a" * 40: 8})}, "too complex"),
        ({"alpha_pattern": json.dumps({"(a|a)" * 40: 8})}, "too complex"),
    ],
)
def test_settings_that_cannot_be_are_refused(tmp_path: Path, values: dict[str, str], message: str) -> None:
    file = write(tmp_path / "it.safetensors", header=values)
    with pytest.raises(ValueError, match=message) as caught:
        read_lora(file)
    assert "\n" not in str(caught.value) and str(file) in str(caught.value)


def test_header_and_tensor_settings_make_the_same_video() -> None:
    def frames(**parts: Any) -> torch.Tensor:
        return next(Pipeline.from_pretrained(ModelSpec.make(**parts)).stream("a red swan", seconds=0.5, steps=1))

    stated = frames(lora=SAMPLES / "nano_meta64.safetensors")
    assert torch.equal(stated, frames(lora=SAMPLES / "nano_alpha64.safetensors"))
    assert torch.equal(stated, frames(lora=f"{SAMPLES / 'nano_plain.safetensors'}:16"))
    assert not torch.equal(stated, frames(lora=SAMPLES / "nano_plain.safetensors"))


@pytest.mark.parametrize(
    "prefix",
    [
        "dit.",
        "pipe.dit.",
        "net.",
        "model.net.",
        "transformer.",
        "lycoris_",
        "lora_unet_",
        "base_model.model.",
        "model.diffusion_model.",
        "some.other.wrapper.",
    ],
)
def test_what_stands_before_the_names_is_stripped(tmp_path: Path, prefix: str) -> None:
    layer = LAYER.replace(".", "_") if prefix.endswith("_") else LAYER
    merged, plain = model(), model()
    merge_lora(merged, read_lora(write(tmp_path / "it.safetensors", f"{prefix}{layer}")))
    merge_lora(plain, read_lora(write(tmp_path / "plain.safetensors")))
    assert torch.equal(merged.blocks[0].self_attention.query.weight, plain.blocks[0].self_attention.query.weight)
    assert not torch.equal(plain.blocks[0].self_attention.query.weight, model().blocks[0].self_attention.query.weight)


def test_the_published_prefix_is_stripped() -> None:
    merged = model()
    merge_lora(merged, read_lora(SAMPLES / "dit_prefix.safetensors"))
    assert not torch.equal(merged.blocks[0].self_attention.query.weight, model().blocks[0].self_attention.query.weight)


def test_another_part_of_a_pipeline_is_named(tmp_path: Path) -> None:
    for part in ("transformer_2", "text_encoder"):
        with pytest.raises(ValueError, match=f"{part} is another part of a pipeline"):
            merge_lora(model(), read_lora(write(tmp_path / "it.safetensors", f"{part}.{LAYER}")))


def test_an_image_lora_is_applied_without_its_image_parts(caplog: pytest.LogCaptureFixture) -> None:
    merged, base = model(), model().state_dict()
    merge_lora(merged, read_lora(SAMPLES / "i2v_lora_on_t2v.safetensors"))
    changed = [name for name, tensor in merged.state_dict().items() if not torch.equal(tensor, base[name])]
    assert changed == ["blocks.0.self_attention.query.weight"]
    assert "3 parts are for an image-to-video model and were left" in caplog.text


@pytest.mark.parametrize("part", ["cross_attn.k_img", "cross_attn_v_img", "attn2.add_k_proj"])
def test_a_lora_of_image_parts_alone_is_refused(tmp_path: Path, part: str) -> None:
    prefix = "lora_unet_blocks_0_" if "_v_" in part else "blocks.0."
    with pytest.raises(ValueError, match="changes only how a model sees an image"):
        merge_lora(model(), read_lora(write(tmp_path / "it.safetensors", prefix + part)))


def test_several_loras_add_up_and_are_rounded_once(tmp_path: Path) -> None:
    one, two = read_lora(write(tmp_path / "a.safetensors")), read_lora(write(tmp_path / "b.safetensors", rank=2))
    merged, base = model().bfloat16(), model().bfloat16()
    merge_loras(merged, [(one, 0.5), (two, -0.25)])
    weight = base.blocks[0].self_attention.query.weight.float()
    for lora, strength in ((one, 0.5), (two, -0.25)):
        change = lora.changes[0][1]
        assert isinstance(change, Pair)
        weight = weight + strength * change.product()
    assert torch.equal(merged.blocks[0].self_attention.query.weight, weight.bfloat16())


def test_one_wrong_lora_of_several_changes_nothing(tmp_path: Path) -> None:
    right = read_lora(write(tmp_path / "a.safetensors"))
    wrong = read_lora(write(tmp_path / "b.safetensors", "blocks.9.self_attn.q"))
    merged = model()
    with pytest.raises(ValueError, match="is not in the model"):
        merge_loras(merged, [(right, 1.0), (wrong, 1.0)])
    assert all(torch.equal(tensor, model().state_dict()[name]) for name, tensor in merged.state_dict().items())


def test_folders_of_peft_read_their_pattern(tmp_path: Path) -> None:
    shutil.copytree(SAMPLES / "alpha_pattern_regex", tmp_path / "it")
    assert scales(tmp_path / "it") == [2]
