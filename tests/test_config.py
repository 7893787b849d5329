"""Settings refuse what they do not know, in one clear line, and every preset fits itself."""

from importlib import resources

import pytest
from pydantic import ValidationError

from causvid.config import TransformerConfig
from causvid.flow import check_few_steps, warped_steps
from causvid.nn.chunks import chunk_layout
from causvid.preset import Preset, load_preset, preset_names

SMALL = """
name = "small"
[transformer]
dim = 32
heads = 2
layers = 1
ffn_dim = 48
text_dim = 16
[text]
dim = 16
layers = 1
heads = 2
head_dim = 8
ffn_dim = 32
max_tokens = 12
[generation]
height = 32
width = 48
fps = 8
clip_frames = 7
first = 1
chunk = 3
window = 6
sink = 1
shift = 5.0
timesteps = [1000, 500]
teacher_steps = 10
guidance = 3.0
"""


@pytest.fixture
def refusal(tmp_path):
    """Load a preset text that must be refused; return the message, which must be one line that names the file."""

    def load(text: str) -> str:
        path = tmp_path / "odd.toml"
        path.write_text(text, encoding="utf-8")
        with pytest.raises(ValueError, match=r"odd\.toml") as error:
            load_preset(str(path))
        assert "\n" not in str(error.value)
        return str(error.value)

    return load


def test_a_preset_is_read_from_a_file_and_survives_json(tmp_path):
    (tmp_path / "small.toml").write_text(SMALL, encoding="utf-8")
    preset = load_preset(str(tmp_path / "small.toml"))
    assert preset.transformer.head_dim == 16 and preset.generation.timesteps == (1000, 500)
    assert Preset.model_validate_json(preset.model_dump_json()) == preset


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("layers = 1", "layers = 1\nlayerz = 2", "transformer.layerz"),
        ('name = "small"', 'name = "small"\nnmae = 1', "nmae"),
        ("fps = 8", "fps = 8\nframes = 3", "generation.frames"),
        ("fps = 8", 'fps = "fast"', "generation.fps"),
        ("chunk = 3\n", "", "generation.chunk"),
        ("dim = 32", "dim = 33", "dim=33 is not a multiple of heads=2"),
        ("heads = 2", "heads = 0", "heads"),
        ("layers = 1", "layers = -1", "layers"),
        ("[generation]", "[generation", "not valid TOML"),
        ("max_tokens = 12", "max_tokens = 0", "text.max_tokens"),
        ("fps = 8", "fps = 0", "generation.fps"),
        ("fps = 8", "fps = inf", "generation.fps"),
        ("fps = 8", "fps = nan", "generation.fps"),
        ("guidance = 3.0", "guidance = -1", "generation.guidance"),
        ("sink = 1", "sink = -1", "generation.sink"),
        ("window = 6\nsink = 1", "window = 0\nsink = 0", "generation: window=0 and sink=0"),
        ("clip_frames = 7", "clip_frames = 8", "clip_frames=8 is not first=1 plus a multiple of chunk=3"),
        ("first = 1", "first = 10", "clip_frames=7 is not first=10"),
        ("[1000, 500]", "[]", "must start at 1000"),
        ("[1000, 500]", "[900, 500]", "must start at 1000"),
        ("[1000, 500]", "[1000, 500, 500]", "fall strictly"),
        ("[1000, 500]", "[1000, 0]", "generation.timesteps.1"),
        ("height = 32", "height = 40", "odd.toml: generation.height=40 is not a multiple of 16"),
        ("text_dim = 16", "text_dim = 17", "odd.toml: text.dim=16 is not transformer.text_dim=17"),
    ],
)
def test_settings_that_do_not_fit_are_refused_in_one_line_that_names_them(refusal, old, new, named):
    assert old in SMALL
    assert named in refusal(SMALL.replace(old, new, 1))


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("{ frames = 4,", "{ frames = 5,", "frames=5 is not from 1 to clip_frames=4"),
        ("until = 0.5", "until = 1.0", "must rise from above 0 to 1"),
        ("until = 1.0", "until = 0.9", "must rise from above 0 to 1"),
    ],
)
def test_phases_that_do_not_fit_the_clip_or_the_stage_are_refused(refusal, old, new, named):
    text = (resources.files("causvid") / "presets" / "test.toml").read_text(encoding="utf-8")
    assert old in text
    assert named in refusal(text.replace(old, new, 1))


def test_an_unknown_preset_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="preset=nonesuch is not known") as error:
        load_preset("nonesuch")
    assert all(name in str(error.value) for name in preset_names())
    with pytest.raises(ValueError, match=r"missing\.toml: no such file"):
        load_preset("missing.toml")


def test_a_preset_file_that_is_not_text_is_refused(tmp_path):
    (tmp_path / "odd.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="preset="):
        load_preset(str(tmp_path / "odd.toml"))


@pytest.mark.parametrize("setting", [("teacher", "batch"), ("classifier", "ema")])
def test_a_stage_refuses_a_setting_that_it_would_not_use(setting):
    stage, name = setting
    preset = load_preset("test").model_dump()
    preset["train"][stage][name] = 1
    with pytest.raises(ValidationError, match=rf"train\.{stage}\.{name}"):
        Preset.model_validate(preset)


def test_a_preset_that_extends_another_holds_only_what_differs(tmp_path):
    (tmp_path / "small.toml").write_text(SMALL, encoding="utf-8")
    child = tmp_path / "inner" / "child.toml"
    child.parent.mkdir()
    child.write_text(
        'name = "child"\nextends = "../small.toml"\n[generation]\ntimesteps = [1000, 700]', encoding="utf-8"
    )
    small, preset = load_preset(str(tmp_path / "small.toml")), load_preset(str(child))
    changed = small.generation.model_copy(update={"timesteps": (1000.0, 700.0)})
    assert preset == small.model_copy(update={"name": "child", "generation": changed})


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('extends = "odd.toml"', "extends itself"),
        ('extends = "nonesuch"', "preset=nonesuch is not known (named by extends in"),
        ('extends = "nowhere.toml"', "nowhere.toml: no such file (named by extends in"),
        ("extends = 3", "extends=3 is not the name of a preset"),
        ('extends = "wan-1.3b"', "name: Field required"),
        ('name = "odd"\nextends = "wan-1.3b"\n[generation]\nchunk = 4', "clip_frames=21 is not first=3"),
    ],
)
def test_a_preset_that_extends_what_it_cannot_is_refused(refusal, text, named):
    assert named in refusal(text)


def test_a_preset_that_names_other_data_trains_on_that_alone(tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "mine.toml").write_text('name = "mine"\nextends = "test"\ndata = "set"\nstart = "a/hub-name"')
    preset = load_preset(str(tmp_path / "mine.toml"))
    assert (preset.world, preset.data, preset.start) == (None, str(tmp_path / "set"), "a/hub-name")
    (tmp_path / "back.toml").write_text('name = "back"\nextends = "mine.toml"\nworld = "full"')
    preset = load_preset(str(tmp_path / "back.toml"))
    assert (preset.world, preset.data) == ("full", None)


def test_a_preset_with_two_things_to_train_on_is_refused(refusal):
    assert "world=nano and data=set: set one of them" in refusal(f'world = "nano"\ndata = "set"\n{SMALL}')


def test_a_circle_of_presets_is_named_link_by_link(tmp_path):
    for name, other in (("a", "b"), ("b", "c"), ("c", "a")):
        (tmp_path / f"{name}.toml").write_text(f'name = "{name}"\nextends = "{other}.toml"', encoding="utf-8")
    with pytest.raises(ValueError, match="extends itself") as error:
        load_preset(str(tmp_path / "a.toml"))
    assert all(str(error.value).count(f"{name}.toml") >= 1 for name in "abc")


def test_settings_are_frozen():
    config = TransformerConfig(dim=32, heads=2, layers=1, ffn_dim=48, text_dim=16)
    with pytest.raises(ValidationError):
        config.dim = 64


def test_the_sizes_that_the_design_names_are_presets():
    assert {"test", "nano", "mini", "wan-1.3b", "wan-14b"} <= set(preset_names())


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_fits_itself(name):
    preset = load_preset(name)
    generation, transformer = preset.generation, preset.transformer
    assert preset.name == name
    assert preset.text.dim == transformer.text_dim
    assert transformer.head_dim % 2 == 0
    edge = 8 * transformer.patch
    assert generation.height % edge == 0 and generation.width % edge == 0
    assert sum(chunk_layout(generation.clip_frames, generation.first, generation.chunk)) == generation.clip_frames
    check_few_steps(warped_steps(generation.timesteps, generation.shift))
    if preset.autoencoder is not None:
        assert preset.autoencoder.latent_channels == transformer.in_channels == transformer.out_channels
    assert Preset.model_validate_json(preset.model_dump_json()) == preset


@pytest.mark.parametrize(
    ("name", "dim", "layers", "heads", "ffn_dim"),
    [("wan-1.3b", 1536, 30, 12, 8960), ("wan-14b", 5120, 40, 40, 13824)],
)
def test_the_presets_of_wan_have_its_published_sizes(name, dim, layers, heads, ffn_dim):
    config = load_preset(name).transformer
    assert (config.dim, config.layers, config.heads, config.ffn_dim) == (dim, layers, heads, ffn_dim)
    assert (config.text_dim, config.in_channels, config.patch, config.head_dim) == (4096, 16, 2, 128)


@pytest.mark.parametrize(
    ("name", "size", "seen", "sigmas"),
    [
        ("causvid", "wan-1.3b", 21, (1.0, 0.757, 0.522)),
        ("self-forcing", "wan-1.3b", 21, (1.0, 0.9375, 0.8333, 0.625)),
        ("longlive", "wan-1.3b", 12, (1.0, 0.9375, 0.8333, 0.625)),
        ("krea-14b", "wan-14b", 6, (1.0, 0.9375, 0.8333, 0.625)),
    ],
)
def test_the_presets_of_published_students_have_their_steps_and_see_their_frames(name, size, seen, sigmas):
    preset, base = load_preset(name), load_preset(size)
    own = preset.generation
    assert (preset.transformer, preset.text) == (base.transformer, base.text)
    assert own.sink + own.window + own.chunk == seen and own.first == own.chunk == 3
    assert warped_steps(own.timesteps, own.shift) == pytest.approx(sigmas, abs=6e-4)
    assert (own.height, own.width, own.fps, own.clip_frames) == (480, 832, 16, 21)
