"""A base and what replaces parts of it become one model: the right parts, not those replaced, and how to generate."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLWan
from safetensors.torch import save_file

from causvid.config import AutoencoderConfig, GenerationConfig, TextConfig, TransformerConfig
from causvid.loading.assemble import assemble
from causvid.loading.autoencoders import write_autoencoder
from causvid.loading.bundle import Bundle, save_bundle, save_transformer
from causvid.loading.layout import WAN_AUTOENCODER, WAN_TEXT_ENCODER, WAN_TOKENIZER, choose_generation, find_layout
from causvid.loading.names import to_foreign
from causvid.loading.spec import ModelSpec
from causvid.loading.text import save_text_encoder
from causvid.models.text import TextEncoder, train_tokenizer
from causvid.models.tiny_autoencoder import TinyAutoencoder
from causvid.models.transformer import Transformer
from causvid.models.wan_autoencoder import WanAutoencoder
from causvid.pipeline import Pipeline
from causvid.preset import load_preset

SIZES = TransformerConfig(dim=24, heads=2, layers=1, ffn_dim=32, text_dim=8)
TINY = AutoencoderConfig(encoder_widths=(4, 4, 4, 4), decoder_widths=(4, 4, 4, 4), blocks=1)
TEXT = TextConfig(dim=8, layers=1, heads=2, head_dim=4, ffn_dim=12, max_tokens=9)
GENERATION = GenerationConfig(
    height=32,
    width=48,
    fps=8,
    clip_frames=4,
    first=1,
    chunk=3,
    window=6,
    sink=1,
    shift=3.0,
    timesteps=(1000, 500),
    teacher_steps=2,
    guidance=2.0,
)
PRESET = """
name = "small"
extends = "longlive"
[transformer]
dim = 24
heads = 2
layers = 1
ffn_dim = 32
text_dim = 8
[text]
dim = 8
[generation]
height = 32
width = 48
"""


def load(model: Path | None, **options: Any) -> Bundle:
    return assemble(ModelSpec(model=model, **options))


def transformer(seed: int) -> Transformer:
    model = Transformer(SIZES)
    model.initialise(torch.Generator().manual_seed(seed))
    return model.eval()


def same(a: Transformer, b: Transformer) -> bool:
    return all(torch.equal(x.float(), y.float()) for x, y in zip(a.parameters(), b.parameters(), strict=True))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Hold a bundle, a folder of diffusers with seed 1's transformer, seed 2's as a published student, and a preset."""
    folder = tmp_path_factory.mktemp("models")
    generator = torch.Generator().manual_seed(0)
    text = TextEncoder.create(TEXT, train_tokenizer(["a red swan"]), generator=generator)
    provenance = {"preset": "test", "world": "nano"}
    parts = Bundle(transformer(3), TinyAutoencoder(TINY), text, GENERATION, provenance, teacher=transformer(4))
    save_bundle(folder / "bundle", parts)
    wan = folder / "wan"
    wan.mkdir()
    save_transformer(wan / "transformer", transformer(1))
    autoencoder = WanAutoencoder(AutoencoderKLWan(base_dim=4, num_res_blocks=1))
    write_autoencoder(wan / "vae", autoencoder, dtype=torch.float32)
    save_text_encoder(text, wan / "text_encoder", wan / "tokenizer", dtype=torch.float32)
    student = folder / "self_forcing_dmd"
    student.mkdir()
    weights = to_foreign(transformer(2).state_dict(), SIZES, "wan")
    torch.save({"generator": {f"model.{name}": tensor for name, tensor in weights.items()}}, student / "model.pt")
    shutil.copy(wan / "transformer" / "config.json", student)
    save_file(TinyAutoencoder(AutoencoderConfig()).state_dict(), folder / "taew2_1.safetensors")
    (folder / "small.toml").write_text(PRESET, encoding="utf-8")
    return folder


def test_a_base_of_wan_alone_is_a_teacher_and_says_that_it_has_no_student(place: Path) -> None:
    bundle = load(place / "wan", preset=str(place / "small.toml"))
    assert bundle.transformer is bundle.teacher and same(bundle.transformer, transformer(1))
    pipeline = Pipeline(bundle)
    with pytest.raises(ValueError, match="needs a causal student"):
        pipeline.stream("a red swan", seconds=1)
    (clip,) = pipeline.teach(["a red swan"], seeds=[0], seconds=0.1, steps=1)
    assert clip.shape == (2, 32, 48, 3)


def test_a_student_replaces_the_transformer_which_is_then_not_read(place: Path, tmp_path: Path) -> None:
    base = tmp_path / "wan"
    shutil.copytree(place / "wan", base, ignore=shutil.ignore_patterns("transformer"))
    bundle = load(base, student=place / "self_forcing_dmd" / "model.pt")
    assert same(bundle.transformer, transformer(2)) and bundle.teacher is None
    assert bundle.generation == load_preset("self-forcing").generation
    assert bundle.provenance["preset"] == "self-forcing"
    with pytest.raises(ValueError, match="transformer"):
        load(base, student=place / "self_forcing_dmd" / "model.pt", teacher=True)


def test_parts_of_wan_may_come_from_anywhere(place: Path, tmp_path: Path) -> None:
    base, wan = tmp_path / "base", place / "wan"
    shutil.copytree(wan / "tokenizer", base / WAN_TOKENIZER)
    save_file(AutoencoderKLWan(base_dim=4).state_dict(), tmp_path / "vae.safetensors")
    with pytest.raises(ValueError, match=r"(?s)models_t5"):
        load(base, student=place / "self_forcing_dmd", autoencoder=wan / "vae")
    parts = {"student": place / "self_forcing_dmd", "umt5": wan / "text_encoder", "preset": place / "small.toml"}
    own = load(wan, **parts | {"umt5": None})
    for autoencoder in (wan / "vae", tmp_path / "vae.safetensors"):
        bundle = load(base, autoencoder=autoencoder, **parts)
        assert isinstance(bundle.autoencoder, WanAutoencoder) and bundle.autoencoder.vae.config.base_dim == 4
        assert torch.equal(bundle.text_encoder.embed(["a"]), own.text_encoder.embed(["a"]))
    with pytest.raises(ValueError, match="autoencoder or tiny_autoencoder, not both"):
        ModelSpec(autoencoder="a", tiny_autoencoder="b")


def test_a_teacher_is_kept_beside_a_student_on_request(place: Path) -> None:
    bundle = load(place / "wan", student=place / "self_forcing_dmd", teacher=True)
    assert bundle.teacher is not None
    assert same(bundle.transformer, transformer(2)) and same(bundle.teacher, transformer(1))


def test_a_student_streams_with_either_autoencoder_in_half_precision(place: Path) -> None:
    shapes = []
    for tiny in (None, place / "taew2_1.safetensors"):
        pipeline = Pipeline.from_pretrained(
            place / "wan",
            student=place / "self_forcing_dmd",
            tiny_autoencoder=tiny,
            preset=str(place / "small.toml"),
            dtype=torch.bfloat16,
        )
        bundle = pipeline.bundle
        assert isinstance(bundle.autoencoder, WanAutoencoder if tiny is None else TinyAutoencoder)
        modules = (bundle.transformer, bundle.autoencoder, bundle.text_encoder)
        assert {p.dtype for module in modules for p in module.parameters()} == {torch.bfloat16}
        shapes.append([tuple(frames.shape) for frames in pipeline.stream("a red swan", seconds=1, steps=1)])
    assert shapes[0] == shapes[1] == [(9, 32, 48, 3), (7, 32, 48, 3)]


def test_a_bundle_is_loaded_as_it_is_and_its_parts_can_be_replaced(place: Path) -> None:
    plain = load(place / "bundle")
    assert same(plain.transformer, transformer(3)) and plain.teacher is not None
    assert (plain.generation, plain.folder) == (GENERATION, place / "bundle")
    assert plain.provenance == {"preset": "test", "world": "nano"}
    changed = load(place / "bundle", student=place / "wan" / "transformer")
    assert same(changed.transformer, transformer(1)) and changed.teacher is None
    assert changed.generation == GENERATION and changed.folder is None
    assert changed.provenance["student"] == str(place / "wan" / "transformer")
    assert "preset" not in changed.provenance, "the base's is not that of its new student"
    faster = load(place / "bundle", tiny_autoencoder=place / "bundle" / "vae")
    assert faster.provenance["preset"] == "test" and faster.folder is None
    asked = load(place / "bundle", preset="longlive")
    assert asked.generation == load_preset("longlive").generation


@pytest.mark.parametrize("placement", ["keep", "cpu", "release"])
def test_where_text_is_embedded_changes_no_embedding(place: Path, placement: str) -> None:
    expected = load(place / "bundle").text_encoder.embed(["a red swan"])
    found = load(place / "bundle", text_encoder=placement).text_encoder.embed(["a red swan"])
    torch.testing.assert_close(found, expected)


def test_parts_of_two_families_are_refused(place: Path) -> None:
    with pytest.raises(ValueError, match="text_dim=8, but the text encoder dim=128"):
        load(None, student=place / "self_forcing_dmd")


def test_a_size_without_a_preset_is_refused_with_what_to_give(place: Path) -> None:
    with pytest.raises(ValueError, match="is of no size that has a preset: choose one with preset="):
        load(place / "wan")


@pytest.mark.parametrize(
    ("name", "preset"),
    [
        ("gdhe17/Self-Forcing/checkpoints/ode_init.pt", "self-forcing"),
        ("checkpoints/self_forcing_dmd.pt", "self-forcing"),
        ("tianweiy/CausVid/autoregressive_checkpoint/model.pt", "causvid"),
        ("weights/autoregressive_checkpoint/model.pt", "causvid"),
        ("Efficient-Large-Model/LongLive-1.3B/models/longlive_base.pt", "longlive"),
        ("krea-realtime-video-14b.safetensors", "krea-14b"),
        ("anything.pt", "wan-1.3b"),
    ],
)
def test_a_published_name_or_else_the_size_tells_how_to_generate(name: str, preset: str) -> None:
    config = load_preset("wan-1.3b").transformer
    assert choose_generation(None, name=name, config=config) == (preset, load_preset(preset).generation)
    assert choose_generation("wan-14b", name=name, config=config)[0] == "wan-14b"


def test_a_folder_further_up_tells_nothing(tmp_path: Path) -> None:
    file = tmp_path / "causvid" / "a" / "b" / "model.pt"
    file.parent.mkdir(parents=True)
    file.touch()
    assert choose_generation(None, name=file, config=load_preset("wan-14b").transformer)[0] == "wan-14b"


def test_the_parts_of_wans_own_folder_are_found(tmp_path: Path) -> None:
    for name in (WAN_AUTOENCODER, WAN_TEXT_ENCODER):
        (tmp_path / name).touch()
    layout = find_layout(tmp_path)
    assert layout.kind == "wan" and layout.teacher is None and layout.transformer == tmp_path
    assert layout.autoencoder == tmp_path / WAN_AUTOENCODER and layout.tokenizer == tmp_path / WAN_TOKENIZER


def test_what_is_no_model_is_refused_with_what_one_is(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not a model: expected a bundle"):
        find_layout(tmp_path)
    (tmp_path / "model.pt").touch()
    with pytest.raises(ValueError, match="is a file, expected a folder"):
        find_layout(tmp_path / "model.pt")
