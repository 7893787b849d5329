"""A transformer written in another format is the same one, opens elsewhere, and appears whole or not at all."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from causvid.config import AutoencoderConfig, GenerationConfig, TextConfig, TransformerConfig
from causvid.files import writing
from causvid.files.checkpoint import open_checkpoint
from causvid.loading import convert as module
from causvid.loading.assemble import load_bundle
from causvid.loading.bundle import Bundle, save_bundle, save_transformer
from causvid.loading.convert import Target, convert
from causvid.loading.describe import Description, describe
from causvid.loading.names import to_foreign
from causvid.loading.weights import load_transformer
from causvid.models.text import TextEncoder, train_tokenizer
from causvid.models.tiny_autoencoder import TinyAutoencoder
from causvid.models.transformer import Transformer
from causvid.preset import load_preset

CONFIG = TransformerConfig(dim=128, heads=1, layers=2, ffn_dim=24, text_dim=8, in_channels=4, out_channels=4)
NARROW = CONFIG.model_copy(update={"dim": 48, "heads": 2})
GENERATION = load_preset("nano").generation


def transformer(config: TransformerConfig = CONFIG, seed: int = 0) -> Transformer:
    model = Transformer(config)
    model.initialise(torch.Generator().manual_seed(seed))
    torch.nn.init.normal_(model.head.weight, generator=torch.Generator().manual_seed(seed))
    return model.eval()


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    x, y = a.state_dict(), b.state_dict()
    return x.keys() == y.keys() and all(torch.equal(x[name], y[name]) and x[name].dtype == y[name].dtype for name in x)


def base(folder: Path, generation: GenerationConfig = GENERATION) -> Path:
    shape = AutoencoderConfig(latent_channels=4, encoder_widths=(4,) * 4, decoder_widths=(4,) * 4, blocks=1)
    text = TextConfig(dim=8, layers=1, heads=2, head_dim=4, ffn_dim=12, max_tokens=9)
    generator = torch.Generator().manual_seed(0)
    encoder = TextEncoder.create(text, train_tokenizer(["a red swan"]), generator=generator)
    provenance = {"preset": "test", "world": "nano"}
    teacher = transformer(NARROW, 1)
    save_bundle(
        folder, Bundle(transformer(NARROW), TinyAutoencoder(shape), encoder, generation, provenance, teacher=teacher)
    )
    return folder


def test_a_way_through_all_formats_ends_where_it_began(tmp_path: Path) -> None:
    start = transformer()
    save_transformer(tmp_path / "0", start)
    way: list[tuple[str, Target]] = [
        ("1", "wan"),
        ("2.pt", "causvid"),
        ("3", "diffusers"),
        ("4.pt", "causvid"),
        ("5", "wan"),
    ]
    before = tmp_path / "0"
    for name, to in way:
        convert(before, tmp_path / name, to=to)
        before = tmp_path / name
        assert same(load_transformer(before), start)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["0", "1", "2.pt", "3", "4.pt", "5"]
    written = (file for name, _ in way for file in (tmp_path / name, *(tmp_path / name).glob("*")) if file.is_file())
    assert len({file.stat().st_mode for file in written}) == 1


def test_what_is_written_is_what_others_expect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from diffusers import WanTransformer3DModel

    start = transformer(NARROW)
    save_transformer(tmp_path / "it", start)
    convert(tmp_path / "it", tmp_path / "wan", to="wan")
    wan = load_file(tmp_path / "wan" / "diffusion_pytorch_model.safetensors")
    expected = to_foreign(start.state_dict(), NARROW, "wan")
    assert wan.keys() == expected.keys() and all(torch.equal(wan[name], expected[name]) for name in wan)
    monkeypatch.setattr(writing, "SHARD_BYTES", 100_000)
    convert(tmp_path / "wan", tmp_path / "diffusers", to="diffusers")
    other = WanTransformer3DModel.from_config(WanTransformer3DModel.load_config(tmp_path / "diffusers"))
    state = {}
    for shard in (tmp_path / "diffusers").glob("*.safetensors"):
        state |= load_file(shard)
    other.load_state_dict(state)

    save_transformer(tmp_path / "wide", transformer())
    convert(tmp_path / "wide", tmp_path / "model.pt", to="causvid")
    content = torch.load(tmp_path / "model.pt", weights_only=True)
    assert list(content) == ["generator"]
    assert "model.blocks.1.self_attn.norm_q.weight" in content["generator"]


def test_a_large_model_is_written_in_shards_with_an_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start = transformer()
    save_transformer(tmp_path / "it", start)
    monkeypatch.setattr(writing, "SHARD_BYTES", 500_000)
    convert(tmp_path / "it", tmp_path / "new", to="diffusers")
    shards = sorted(file.name for file in (tmp_path / "new").glob("*.safetensors"))
    assert len(shards) > 2 and shards[0] == f"diffusion_pytorch_model-00001-of-{len(shards):05d}.safetensors"
    index = json.loads((tmp_path / "new" / "diffusion_pytorch_model.safetensors.index.json").read_text())
    assert sorted(set(index["weight_map"].values())) == shards
    assert index["metadata"]["total_size"] == sum(p.nbytes for p in start.parameters())
    assert same(load_transformer(tmp_path / "new"), start)


def test_weights_are_stored_as_they_are_or_as_asked_for(tmp_path: Path) -> None:
    state = to_foreign(transformer().state_dict(), CONFIG, "wan")
    mixed = {name: t.bfloat16() if t.ndim == 2 else t for name, t in state.items()}
    torch.save({"generator": mixed, "critic": state}, tmp_path / "it.pt")
    convert(tmp_path / "it.pt", tmp_path / "same", to="wan")
    entries = open_checkpoint(tmp_path / "same").sections[""]
    assert {name: entry.dtype for name, entry in entries.items()} == {name: t.dtype for name, t in mixed.items()}
    convert(tmp_path / "it.pt", tmp_path / "half", to="wan", section="critic", dtype=torch.float16)
    half = dict(open_checkpoint(tmp_path / "half").read(list(state)))
    assert all(torch.equal(half[name], t.half()) for name, t in state.items())


@pytest.mark.parametrize("to", ["diffusers", "wan"])
def test_eight_bits_keep_linear_layers_within_half_a_step_of_a_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: Target
) -> None:
    start = transformer()
    start.blocks[0].feed_forward[0].weight.data[3].zero_()  # a row without a largest value
    save_transformer(tmp_path / "it", start)
    monkeypatch.setattr(writing, "SHARD_BYTES", 100_000)  # so that factors are beside other weights than theirs
    convert(tmp_path / "it", tmp_path / "small", to=to, dtype=torch.int8)
    entries = open_checkpoint(tmp_path / "small").sections[""]
    assert {entry.dtype for name, entry in entries.items() if f"{name}_scale" in entries} == {torch.int8}
    assert sum(entry.bytes for entry in entries.values()) < 0.45 * sum(p.nbytes for p in start.parameters())
    read = load_transformer(tmp_path / "small", dtype=torch.float32).state_dict()
    for name, weight in start.state_dict().items():
        step = weight.abs().amax(dim=-1, keepdim=True) / 127 if weight.ndim == 2 else torch.zeros(())
        # Half a step, and what bf16, in which 8-bit weights are read, has of a value.
        assert ((read[name] - weight).abs() <= 0.5 * step + weight.abs() / 128).all(), name
    convert(tmp_path / "small", tmp_path / "again", to=to, dtype=torch.int8)
    assert open_checkpoint(tmp_path / "again").sections[""] == entries


def test_a_bundle_is_its_base_with_another_transformer(tmp_path: Path) -> None:
    student = transformer()
    save_transformer(tmp_path / "student", student)
    old = load_bundle(base(tmp_path / "base"))
    convert(tmp_path / "student", tmp_path / "new", to="bundle", base=tmp_path / "base")
    new = load_bundle(tmp_path / "new")
    assert same(new.transformer, student)
    assert old.teacher is not None and new.teacher is not None and same(new.teacher, old.teacher)
    assert same(new.autoencoder, old.autoencoder) and same(new.text_encoder, old.text_encoder)
    assert new.generation == GENERATION
    assert new.provenance == {"preset": "test", "world": "nano", "transformer": "student", "base": "base"}


def test_a_folder_of_diffusers_becomes_a_bundle_with_the_generation_of_a_preset(tmp_path: Path) -> None:
    student = transformer()
    save_transformer(tmp_path / "student", student)
    folder = base(tmp_path / "base")
    (folder / "causvid.json").unlink()
    with pytest.raises(ValueError, match="preset="):
        convert(tmp_path / "student", tmp_path / "new", to="bundle", base=folder)
    assert not (tmp_path / "new").exists()
    convert(tmp_path / "student", tmp_path / "new", to="bundle", base=folder, preset="causvid")
    assert load_bundle(tmp_path / "new").generation == load_preset("causvid").generation


def test_options_that_do_not_fit_are_refused_and_nothing_appears(tmp_path: Path) -> None:
    save_transformer(tmp_path / "it", transformer(NARROW))
    folder = base(tmp_path / "base")
    other = transformer(NARROW.model_copy(update={"text_dim": 12}))
    save_transformer(tmp_path / "other", other)
    save_transformer(tmp_path / "clean", transformer(NARROW.model_copy(update={"predicts": "x0"})))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    before = sorted(tmp_path.rglob("*"))
    for source, target, options, message in [
        ("it", "new", {"to": "gguf"}, "to=gguf is not one of diffusers, wan"),
        ("it", "new", {"to": "bundle"}, "base= is missing"),
        ("it", "new", {"to": "wan", "base": folder}, "is for to=bundle"),
        ("it", "new", {"to": "wan", "preset": "nano"}, "preset=nano is for to=bundle"),
        ("it", "new.pt", {"to": "wan"}, "new.pt is not a folder, as to=wan makes"),
        ("it", "new", {"to": "causvid"}, "new is not a .pt file"),
        ("it", "mine", {"to": "wan"}, "mine exists: choose another"),
        ("it", "new.pt", {"to": "causvid"}, "has no place for head_dim=24: its readers assume 128"),
        ("clean", "new", {"to": "wan"}, "cannot say that a model predicts x0"),
        ("clean", "new.pt", {"to": "causvid"}, "cannot say that a model predicts x0"),
        ("it", "new.pt", {"to": "causvid", "dtype": torch.int8}, "dtype=int8 is not for to=causvid"),
        ("nothing", "new", {"to": "wan"}, "nothing is missing"),
        ("base/vae", "new", {"to": "wan"}, "is a tiny autoencoder"),
        (
            "other",
            "new",
            {"to": "bundle", "base": folder},
            "text_encoder has 8 channels, expected the transformer's 12",
        ),
    ]:
        with pytest.raises(ValueError, match=message):
            convert(tmp_path / source, tmp_path / target, **options)  # type: ignore[arg-type]
        assert sorted(tmp_path.rglob("*")) == before, message


def test_a_write_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_transformer(tmp_path / "it", transformer())
    for name, to in (("new", "wan"), ("new.pt", "causvid")):
        with monkeypatch.context() as patch:
            patch.setattr(module, "foreign_shape", lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                convert(tmp_path / "it", tmp_path / name, to=to)  # type: ignore[arg-type]
        assert [file.name for file in tmp_path.iterdir()] == ["it"]


def rows(found: Description) -> dict[str, str]:
    return dict(found.rows)


def test_a_description_names_layout_sizes_precision_and_memory(tmp_path: Path) -> None:
    save_transformer(tmp_path / "it", transformer(), dtype=torch.bfloat16)
    convert(tmp_path / "it", tmp_path / "model.pt", to="causvid")
    (found,) = describe(tmp_path / "model.pt")
    said = rows(found)
    count = sum(p.numel() for p in transformer().parameters())
    assert found.problem is None
    assert said["what"] == "a Wan transformer" and said["section used"] == "generator"
    assert said["layout"].startswith("Wan's original in a section") and said["family"] == "of no published size"
    assert said["parameters"] == f"{count:,}" and said["precision"] == "bfloat16"
    assert said["memory"] == "1.8 MB in fp32, 901 kB in bf16, 450 kB in fp8"
    assert said["matching"] == f"{len(transformer().state_dict())} of {len(transformer().state_dict())} parameters"
    assert said["sections"].startswith("generator (")


def test_a_description_says_what_is_missing_unknown_or_misshapen(tmp_path: Path) -> None:
    state = to_foreign(transformer().state_dict(), CONFIG, "wan")
    state["blocks.0.ffn.0.wieght"] = state.pop("blocks.0.ffn.2.weight")
    state["head.head.bias"] = torch.zeros(3)
    torch.save({"model": state}, tmp_path / "it.pt")
    (found,) = describe(tmp_path / "it.pt")
    assert found.problem == (
        "the weights do not fit: missing blocks.0.ffn.2.weight; unknown blocks.0.ffn.0.wieght; "
        "head.head.bias is [3], expected [16]"
    )


def test_every_part_of_a_folder_is_described_and_a_damaged_one_named(tmp_path: Path) -> None:
    folder = base(tmp_path / "base")
    (folder / "teacher" / "diffusion_pytorch_model.safetensors").write_bytes(b"")
    parts = {part.title: part for part in describe(folder)}
    assert list(parts) == ["transformer", "teacher", "vae", "text_encoder"]
    assert rows(parts["transformer"])["layout"] == "diffusers"
    assert "is empty" in (parts["teacher"].problem or "")
    assert rows(parts["vae"])["what"] == "a tiny autoencoder (TAEHV)"
    assert rows(parts["text_encoder"])["what"] == "a T5 text encoder"
    lora = {"a.lora_A.weight": torch.ones(4, 8), "a.lora_B.weight": torch.ones(8, 4)}
    torch.save({"generator_lora": lora, "critic_lora": lora}, tmp_path / "lora.pt")
    (found,) = describe(tmp_path / "lora.pt")
    assert rows(found)["what"] == "a LoRA" and rows(found)["layers"] == "1 of rank 4" and found.problem is None
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no weights, and no folder of a model's part"):
        describe(tmp_path / "empty")
