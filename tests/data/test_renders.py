"""What training sees of the world: squares of clips, and captions in the world's language."""

import pytest
import torch

from causvid.data.renders import captions_of, held_out_prompts
from causvid.preset import load_preset
from causvid.train.autoencoder import crop
from causvid.train.roles import Roles
from causvid.train.run import Run
from causvid.worlds.storybook import STORYBOOK, caption, sample_scene


@pytest.fixture(scope="module")
def preset():
    return load_preset("storybook")


def test_a_square_is_a_part_of_its_clip():
    clips = torch.arange(2 * 3 * 12 * 20).view(2, 1, 3, 12, 20).float()
    squares = crop(clips, 8, torch.Generator().manual_seed(0))
    assert squares.shape == (2, 1, 3, 8, 8)
    for clip, square in zip(clips, squares, strict=True):
        y, x = divmod(int(square[0, 0, 0, 0]) % 240, 20)
        assert torch.equal(square, clip[..., y : y + 8, x : x + 8])


def test_squares_reach_every_corner():
    clips = torch.arange(3 * 10 * 11).view(1, 1, 3, 10, 11).float()
    generator = torch.Generator().manual_seed(0)
    corners = {int(crop(clips, 8, generator)[0, 0, 0, 0, 0]) for _ in range(400)}
    assert corners == {11 * y + x for y in range(3) for x in range(4)}


def test_no_square_is_the_whole_frame_and_too_large_a_one_is_refused():
    clips = torch.zeros(1, 1, 3, 8, 16)
    assert crop(clips, 0, torch.Generator()) is clips
    with pytest.raises(ValueError, match="crop=12 does not fit into a frame of 8 x 16"):
        crop(clips, 12, torch.Generator())


def test_a_rich_world_is_captioned_with_slips_and_asked_without(preset):
    scenes = [sample_scene(STORYBOOK, seed) for seed in range(100)]
    assert captions_of(preset, scenes) == [caption(s, s.seed, language="rich", slips=True) for s in scenes]
    asked = [sample_scene(STORYBOOK, seed, split="held-out") for seed in range(20)]
    assert held_out_prompts(preset, 20) == [caption(s, s.seed, language="rich") for s in asked]


def test_the_rich_language_is_cut_into_subwords(preset, tmp_path):
    text = Roles(preset, Run(tmp_path)).new_text_encoder()
    assert text.unknown_words("a zebra venturing") == []
    ids, mask = text.tokens(["woolly mammoths venturing through a snowy tundra", "a zébra"])
    assert ids.shape == (2, preset.text.max_tokens) and int(mask[0].sum()) <= 12
