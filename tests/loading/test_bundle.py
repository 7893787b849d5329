"""A bundle comes back as it was saved, opens elsewhere, and says what is wrong with it."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from causvid.config import AutoencoderConfig, GenerationConfig, TextConfig, TransformerConfig
from causvid.loading.assemble import assemble, load_bundle
from causvid.loading.bundle import Bundle, save_bundle, save_transformer
from causvid.loading.convert import convert
from causvid.loading.spec import ModelSpec
from causvid.models.text import TextEncoder, train_tokenizer
from causvid.models.tiny_autoencoder import TinyAutoencoder
from causvid.models.transformer import Transformer
from causvid.models.wan_autoencoder import WanAutoencoder
from causvid.pipeline import Pipeline

TRANSFORMER = TransformerConfig(dim=24, heads=2, layers=1, ffn_dim=32, text_dim=8, in_channels=4, out_channels=4)
AUTOENCODER = AutoencoderConfig(
    latent_channels=4, encoder_widths=(4, 4, 4, 4), decoder_widths=(4, 4, 4, 4), blocks=1, padding="first"
)
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
    teacher_steps=3,
    guidance=2.0,
)


def bundle(seed: int = 0) -> Bundle:
    generator = torch.Generator().manual_seed(seed)

    def transformer() -> Transformer:
        model = Transformer(TRANSFORMER)
        model.initialise(generator)
        return model.eval()

    autoencoder = TinyAutoencoder(AUTOENCODER).eval()
    with torch.no_grad():
        for p in autoencoder.parameters():
            p.copy_(0.2 * torch.randn(p.shape, generator=generator))
    text = TextEncoder.create(TEXT, train_tokenizer(["a red swan over the snow"]), generator=generator).eval()
    provenance = {"preset": "test", "stages": {"teacher": {"steps": 3}}}
    return Bundle(transformer(), autoencoder, text, GENERATION, provenance, teacher=transformer())


def save(parts: Bundle, folder: Path, dtype: torch.dtype = torch.float32, classifier: Path | None = None) -> None:
    save_bundle(folder, replace(parts, classifier=classifier, folder=None), dtype=dtype)


def modules(parts: Bundle) -> list[torch.nn.Module]:
    assert parts.teacher is not None
    return [parts.transformer, parts.teacher, parts.autoencoder, parts.text_encoder]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_saved_and_loaded_is_the_same_to_the_precision_of_the_file(tmp_path: Path, dtype: torch.dtype) -> None:
    a = bundle()
    (tmp_path / "reader").mkdir()
    (tmp_path / "reader" / "config.json").write_text("{}")
    save(a, tmp_path / "new" / "it", dtype, classifier=tmp_path / "reader")
    b = load_bundle(tmp_path / "new" / "it")
    for x, y in zip(modules(a), modules(b), strict=True):
        assert not y.training
        states = x.state_dict(), y.state_dict()
        assert states[0].keys() == states[1].keys()
        for name in states[0]:
            assert states[1][name].dtype == torch.float32
            assert torch.equal(states[0][name].to(dtype).float(), states[1][name])
    assert (b.generation, b.provenance) == (a.generation, a.provenance)
    assert b.classifier is not None and (b.classifier / "config.json").is_file()
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["it"]
    assert len({file.stat().st_mode for file in (tmp_path / "new" / "it").rglob("*.*") if file.is_file()}) == 1


def test_a_saved_student_opens_in_diffusers(tmp_path: Path) -> None:
    from diffusers import WanTransformer3DModel

    a = bundle()
    torch.nn.init.normal_(a.transformer.head.weight, generator=torch.Generator().manual_seed(0))
    save(a, tmp_path / "it")
    # As its from_pretrained does, which would need accelerate.
    folder = tmp_path / "it" / "transformer"
    other = WanTransformer3DModel.from_config(WanTransformer3DModel.load_config(folder)).eval()
    other.load_state_dict(load_file(folder / "diffusion_pytorch_model.safetensors"))
    generator = torch.Generator().manual_seed(1)
    x, text = torch.randn(1, 3, 4, 6, 4, generator=generator), torch.randn(1, 5, 8, generator=generator)
    with torch.no_grad():
        mine = a.transformer(x, torch.full((1, 3), 0.7), a.transformer.encode_text(text))
        theirs = other(x.transpose(1, 2), torch.tensor([700.0]), text, return_dict=False)[0].transpose(1, 2)
    assert (mine - theirs).norm() / theirs.norm() < 1e-4


def test_a_teacher_without_a_student_is_stored_once_and_makes_whole_clips(tmp_path: Path) -> None:
    a = bundle()
    assert a.teacher is not None
    save(replace(a, transformer=a.teacher), tmp_path / "it")
    index = json.loads((tmp_path / "it" / "model_index.json").read_text())
    assert "teacher" in index and "transformer" not in index and not (tmp_path / "it" / "transformer").exists()
    read = load_bundle(tmp_path / "it")
    assert read.transformer is read.teacher
    assert torch.equal(read.transformer.head.weight, a.teacher.head.weight)
    with pytest.raises(ValueError, match="needs a causal student"):
        Pipeline(read).stream("a red swan", seconds=1)
    # Given a student, it is a whole bundle again.
    save_transformer(tmp_path / "student", a.transformer)
    convert(tmp_path / "student", tmp_path / "both", to="bundle", base=tmp_path / "it")
    both = load_bundle(tmp_path / "both")
    assert both.teacher is not None and both.transformer is not both.teacher
    assert torch.equal(both.transformer.head.weight, a.transformer.head.weight)
    assert "transformer" in json.loads((tmp_path / "both" / "model_index.json").read_text())


def test_a_bundle_and_diffusers_scheduler_know_what_is_predicted(tmp_path: Path) -> None:
    from diffusers import UniPCMultistepScheduler

    a = bundle()
    clean = Transformer(TRANSFORMER.model_copy(update={"predicts": "x0"}))
    clean.load_state_dict(a.transformer.state_dict())
    save(replace(a, transformer=clean.eval()), tmp_path / "it")
    read = load_bundle(tmp_path / "it")
    assert read.transformer.config.predicts == "x0" and read.teacher is not None
    assert read.teacher.config.predicts == "velocity"
    stated = json.loads((tmp_path / "it" / "transformer" / "config.json").read_text())["prediction_type"]
    scheduler = UniPCMultistepScheduler(prediction_type=stated, use_flow_sigmas=True)
    scheduler.set_timesteps(4)
    said = torch.randn(2, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(scheduler.convert_model_output(said, sample=torch.zeros(2, 4)), said)


def test_a_bundle_is_replaced_but_nothing_else_is(tmp_path: Path) -> None:
    save(bundle(0), tmp_path / "it")
    save(bundle(1), tmp_path / "it")
    assert torch.equal(load_bundle(tmp_path / "it").transformer.patch_in.weight, bundle(1).transformer.patch_in.weight)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(ValueError, match="exists and is not a bundle"):
        save(bundle(), tmp_path / "mine")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["it", "mine"]


def test_a_save_that_fails_leaves_the_old_bundle(tmp_path: Path) -> None:
    save(bundle(0), tmp_path / "it")
    with pytest.raises(OSError):
        save(bundle(1), tmp_path / "it", classifier=tmp_path / "nowhere")
    assert torch.equal(load_bundle(tmp_path / "it").transformer.patch_in.weight, bundle(0).transformer.patch_in.weight)
    assert [file.name for file in tmp_path.iterdir()] == ["it"]


def test_parts_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    a = bundle()
    other = Transformer(TRANSFORMER.model_copy(update={"text_dim": 9}))
    with pytest.raises(ValueError, match=r"teacher has text_dim=9, but the text encoder dim=8"):
        save(Bundle(a.transformer, a.autoencoder, a.text_encoder, GENERATION, {}, teacher=other), tmp_path / "it")
    assert not (tmp_path / "it").exists()


def half(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])


def edit(name: str, value: object) -> Callable[[Path], None]:
    def change(file: Path) -> None:
        settings = json.loads(file.read_text())
        file.write_text(json.dumps({**settings, name: value}))

    return change


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("causvid.json", Path.unlink, "lacks causvid.json"),
        ("causvid.json", half, "causvid.json is not readable JSON"),
        ("causvid.json", edit("format", 99), "format=99, expected 1"),
        ("causvid.json", edit("generation", {**GENERATION.model_dump(), "fps": "x"}), "generation: fps: "),
        ("causvid.json", edit("generation", {**GENERATION.model_dump(), "sink": -1}), "generation: sink: "),
        (
            "causvid.json",
            edit("generation", {**GENERATION.model_dump(), "clip_frames": 3}),
            "clip_frames=3 is not first",
        ),
        ("causvid.json", edit("generation", None), "generation: Input should be"),
        ("transformer", shutil.rmtree, "transformer is missing"),
        ("transformer/config.json", Path.unlink, "put the model's config.json beside it"),
        (
            "transformer/config.json",
            edit("_class_name", "FluxTransformer2DModel"),
            "put the model's config.json beside it",
        ),
        ("transformer/config.json", edit("num_layers", 2), "missing blocks.1.scale_shift_table"),
        ("transformer/config.json", edit("ffn_dim", 48), r"ffn.net.0.proj.weight is \[32, 24\], expected \[48, 24\]"),
        ("transformer/config.json", edit("image_dim", 3), "config.json: image_dim=3 is not supported"),
        ("transformer/diffusion_pytorch_model.safetensors", Path.unlink, "transformer holds no weights"),
        ("transformer/diffusion_pytorch_model.safetensors", half, "not a whole safetensors file"),
        ("teacher/diffusion_pytorch_model.safetensors", lambda file: file.write_bytes(b""), "is empty, 0 bytes"),
        ("vae", shutil.rmtree, "vae is missing"),
        ("vae/config.json", edit("_class_name", "AutoencoderKLWan"), "vae: the weights do not fit: missing encoder"),
        ("vae/config.json", edit("_class_name", "AutoencoderKL"), "_class_name='AutoencoderKL', expected"),
        ("vae/config.json", edit("blocks", 2), "vae.*missing encoder"),
        ("vae/config.json", edit("widths", 2), "config.json: widths: "),
        ("vae/diffusion_pytorch_model.safetensors", half, "not a whole safetensors file"),
        ("text_encoder/model.safetensors", half, "not a whole safetensors file"),
        ("text_encoder/model.safetensors", Path.unlink, "text_encoder holds no weights"),
        ("text_encoder", shutil.rmtree, "text_encoder is missing"),
        ("tokenizer/tokenizer.json", half, "tokenizer holds no readable"),
        ("tokenizer/tokenizer.json", Path.unlink, "tokenizer"),
    ],
)
def test_damage_is_named(tmp_path: Path, name: str, damage: Callable[[Path], object], message: str) -> None:
    save(bundle(), tmp_path / "it")
    damage(tmp_path / "it" / name)
    with pytest.raises(ValueError, match=message):
        load_bundle(tmp_path / "it")


def test_a_folder_that_is_no_bundle_says_so(tmp_path: Path) -> None:
    for folder in (tmp_path / "nothing", tmp_path):
        with pytest.raises(ValueError, match=r"lacks causvid\.json: train one with `causvid train all`"):
            load_bundle(folder)


def test_a_bundle_loads_in_the_type_asked_for(tmp_path: Path) -> None:
    a = bundle()
    save(a, tmp_path / "it")
    b = assemble(ModelSpec(model=tmp_path / "it", dtype=torch.bfloat16))
    for x, y in zip(modules(a), modules(b), strict=True):
        assert {p.dtype for p in y.parameters()} == {torch.bfloat16}
        assert all(torch.equal(p.bfloat16(), q) for p, q in zip(x.parameters(), y.parameters(), strict=True))


def test_a_bundle_may_hold_the_autoencoder_of_wan(tmp_path: Path) -> None:
    from diffusers import AutoencoderKLWan

    a = bundle()
    vae = AutoencoderKLWan(
        base_dim=4, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1, latents_mean=[0.0] * 4, latents_std=[1.0] * 4
    )
    save(replace(a, autoencoder=WanAutoencoder(vae.eval())), tmp_path / "it")
    index = json.loads((tmp_path / "it" / "model_index.json").read_text())
    assert index["vae"] == ["diffusers", "AutoencoderKLWan"]
    b = load_bundle(tmp_path / "it").autoencoder
    assert isinstance(b, WanAutoencoder)
    latent = torch.randn(1, 2, 4, 2, 3, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(WanAutoencoder(vae).decode(latent), b.decode(latent))
