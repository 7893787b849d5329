"""Hold Storybook to its promises: same seed, same clip, wherever and however much of it is drawn."""

import json
import re
from pathlib import Path

import numpy
import pytest
import torch
from torch.nn.functional import adaptive_avg_pool2d

from causvid.worlds.storybook import (
    ATTRIBUTES,
    FULL,
    NANO,
    STORYBOOK,
    Scene,
    World,
    caption,
    is_held_out,
    render,
    sample_scene,
    words,
)
from causvid.worlds.storybook.motion import pose
from causvid.worlds.storybook.sprite import paint_subjects

_PINNED = json.loads((Path(__file__).parent / "nano_pinned.json").read_text())
# A subject's patch is as large as its group needs, and its faint halo may end a pixel earlier.
_CLOSE = {"atol": 2e-3, "rtol": 0.0}
_SIZE = {"height": 48, "width": 72, "fps": 8.0}


@pytest.mark.parametrize("pin", _PINNED, ids=lambda pin: f"seed-{pin['seed']}")
def test_nano_clips_and_captions_never_change(pin):
    scene = sample_scene(NANO, pin["seed"])
    assert [scene.subject, scene.colour, scene.place, scene.motion, scene.morph] == pin["scene"]
    assert [caption(scene, seed) for seed in range(3)] == pin["captions"]
    clip = render([scene], frames=2, height=64, width=96, fps=1, start=3)[0]
    coarse = (adaptive_avg_pool2d(clip, (4, 6)) * 255).flatten()
    torch.testing.assert_close(coarse, torch.tensor(pin["pixels"], dtype=torch.float32), atol=1.5, rtol=0)


@pytest.mark.parametrize("world", [NANO, FULL], ids=["nano", "full"])
def test_same_seed_same_clip(world):
    scenes = [sample_scene(world, seed) for seed in range(6)]
    assert scenes == [sample_scene(world, seed) for seed in range(6)]
    first, again = (render(scenes, frames=3, **_SIZE) for _ in range(2))
    assert torch.equal(first, again)
    assert first.dtype == torch.float32 and first.min() >= 0 and first.max() <= 1


@pytest.mark.parametrize("world", [NANO, FULL], ids=["nano", "full"])
def test_scene_alone_is_scene_in_a_batch(world):
    scenes = [sample_scene(world, seed) for seed in range(12)]
    together = render(scenes, frames=2, **_SIZE)
    for index, scene in enumerate(scenes):
        torch.testing.assert_close(render([scene], frames=2, **_SIZE)[0], together[index], **_CLOSE)


@pytest.mark.parametrize("world", [NANO, FULL], ids=["nano", "full"])
def test_start_is_a_slice_of_the_long_clip(world):
    scenes = [sample_scene(world, seed) for seed in range(20, 28)]
    long = render(scenes, frames=14, **_SIZE)
    for start, frames in ((0, 1), (5, 9), (13, 1)):
        part = render(scenes, frames=frames, start=start, **_SIZE)
        torch.testing.assert_close(part, long[:, start : start + frames], **_CLOSE)


@pytest.mark.parametrize(("height", "width"), [(37, 51), (64, 33), (23, 96)])
def test_any_size_and_length(height, width):
    scenes = [sample_scene(FULL, seed) for seed in range(8)]
    for frames in (1, 4):
        video = render(scenes, frames=frames, height=height, width=width, fps=7.5)
        assert video.shape == (8, frames, 3, height, width)
        assert video.isfinite().all()


def test_only_what_stands_still_does_not_move():
    motions = ATTRIBUTES["motion"]
    video = render([Scene("fox", "red", "desert", motion, seed=3) for motion in motions], frames=9, **_SIZE)
    change = (video[:, 1:] - video[:, :-1]).abs().mean((1, 2, 3, 4))
    assert [m for m, v in zip(motions, change, strict=True) if v < 1e-3] == ["standing still"]


def test_every_subject_shows_its_colour():
    """Change the colour word alone: a good part of the picture must follow."""
    subjects = ATTRIBUTES["subject"]
    scenes = [Scene(s, colour, "desert", "standing still", seed=8) for colour in ("red", "blue") for s in subjects]
    red, blue = render(scenes, frames=1, **_SIZE)[:, 0].chunk(2)
    share = ((red - blue).abs().amax(1) > 0.25).float().mean((1, 2))
    assert {s: v.item() for s, v in zip(subjects, share, strict=True) if not 0.05 < v < 0.4} == {}


def test_no_colour_hides_in_any_place():
    """Swap the subject: the picture must change plainly in any colour at any place."""
    pairs = [(colour, place) for colour in ATTRIBUTES["colour"] for place in ATTRIBUTES["place"]]
    scenes = [Scene(s, *pair, "standing still", seed=5) for s in ("star", "mushroom") for pair in pairs]
    stars, mushrooms = render(scenes, frames=1, **_SIZE)[:, 0].chunk(2)
    share = ((stars - mushrooms).abs().amax(1) > 0.2).float().mean((1, 2))
    assert {pair: v.item() for pair, v in zip(pairs, share, strict=True) if v < 0.02} == {}


@pytest.mark.parametrize(
    ("attribute", "usual"),
    [("weather", "clear"), ("time", "day"), ("camera", "static"), ("place", "lake"), ("motion", "hopping")],
)
def test_every_attribute_value_changes_the_clip(attribute, usual):
    base = {"subject": "owl", "colour": "green", "place": "lake", "motion": "hopping"}
    values = ATTRIBUTES[attribute]
    clips = render([Scene(**{**base, attribute: value}, seed=4) for value in values], frames=4, **_SIZE)
    for value, clip in zip(values, clips, strict=True):
        assert value == usual or (clip - clips[values.index(usual)]).abs().mean() > 0.005


def test_pairs_and_morphs_show_both():
    plain = Scene("cat", "red", "meadow", "moving right", seed=1)
    pair = Scene("cat", "red", "meadow", "moving right", second=("owl", "blue"), seed=1)
    morph = Scene("cat", "red", "meadow", "moving right", morph="owl", seed=1)
    clips = render([plain, pair, morph], frames=24, **_SIZE)
    assert (clips[0] - clips[1]).abs().mean() > 0.02
    difference = (clips[0] - clips[2]).abs().mean((1, 2, 3))
    assert difference.min() < 1e-3 < 0.01 < difference.max()


def test_a_morph_goes_from_its_first_subject_to_its_second_once_whatever_its_seed():
    for seed in range(20):
        morph = pose(Scene("cat", "red", "meadow", "spinning", morph="owl", seed=seed), numpy.arange(360) / 12).morph
        assert morph[:6].max() == 0 and morph[20:].min() == 1 and (numpy.diff(morph) >= 0).all()


def test_faces_its_direction():
    """A traveller to the left has the mirrored outline of one to the right."""
    lopsided = 0
    for subject in ATTRIBUTES["subject"]:
        outlines = []
        for side in ("left", "right"):
            there = pose(Scene(subject, "white", "lake", f"moving {side}", seed=2), numpy.zeros(1))
            there.x[:] = there.angle[:] = 0
            canvas = torch.zeros(1, 1, 3, 48, 72)
            paint_subjects(canvas, torch.tensor([0]), [there], subject, None, ["white"], None)
            outlines.append(canvas[0, 0].amax(0) > 0.4)
        left, right = outlines
        assert (left != right.flip(-1)).float().mean() < 0.01
        lopsided += int((left != right).float().mean() > 0.01)
    assert lopsided >= 16


@pytest.mark.parametrize("world", [NANO, FULL], ids=["nano", "full"])
def test_splits_share_no_combination(world):
    def combinations(split):
        scenes = [sample_scene(world, seed, split=split) for seed in range(600)]
        return {(s.subject, s.colour, s.place, s.motion) for s in scenes}

    assert not combinations("train") & combinations("held-out")
    every = [(s, c, p, m) for s in NANO.subjects for c in NANO.colours for p in NANO.places for m in NANO.motions]
    assert 0.08 < sum(is_held_out(*one) for one in every) / len(every) < 0.12


@pytest.mark.parametrize("world", [NANO, FULL], ids=["nano", "full"])
def test_words_cover_the_captions(world):
    known = set(words(world))
    said = set()
    for seed in range(2000):
        text = caption(sample_scene(world, seed, split="all"), seed)
        assert re.fullmatch(r"[a-z]+(,? [a-z]+)*", text), text
        assert len(text.split()) <= 24
        said |= set(text.replace(",", "").split())
    assert said <= known
    assert len(known) <= 200


def test_captions_name_what_is_seen():
    scene = Scene(
        "woolly mammoth", "white", "lake", "spinning", "fog", "dawn", "panning", second=("hot air balloon", "red")
    )
    for seed in range(50):
        text = caption(scene, seed)
        for any_of in (
            ("mammoth",),
            ("white",),
            ("lake",),
            ("spinning", "rotating"),
            ("fog",),
            ("dawn", "sunrise"),
            ("pan",),
        ):
            assert any(word in text for word in any_of), text
        assert "balloon" in text and ("red" in text or "scarlet" in text)


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="unicorn"):
        Scene("unicorn", "red", "lake", "hopping")
    with pytest.raises(ValueError, match="unicorn"):
        World(subjects=("unicorn",))
    with pytest.raises(ValueError, match="huge"):
        World.preset("huge")
    with pytest.raises(ValueError, match="split='test'"):
        sample_scene(NANO, 0, split="test")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="frames=0"):
        render([sample_scene(NANO, 0)], frames=0, **_SIZE)


def test_a_world_that_does_not_wander_shows_one_spot_of_its_places_unless_its_subject_travels():
    def edge(seed, motion, *, wanders):
        scene = Scene("star", "red", "forest", motion, seed=seed, wanders=wanders)
        return render([scene], frames=1, height=64, width=96, fps=12)[..., :8]

    assert torch.equal(edge(1, "hopping", wanders=False), edge(2, "hopping", wanders=False))
    assert not torch.equal(edge(1, "hopping", wanders=True), edge(2, "hopping", wanders=True))
    assert not torch.equal(edge(1, "zigzagging", wanders=False), edge(2, "zigzagging", wanders=False))
    assert torch.equal(edge(1, "moving left", wanders=False), edge(1, "moving left", wanders=True))
    assert not sample_scene(STORYBOOK, 0).wanders and sample_scene(FULL, 0).wanders
