"""Clips of the store are drawn with their captions."""

import pytest
import torch

from causvid.data.dataset import number
from causvid.data.storybook import StorybookDataset


def test_a_draw_keeps_clip_and_caption_together_and_reaches_all_of_them() -> None:
    clips, frames, phrasings = 5, 4, 3
    order = torch.arange(clips)
    latents = (10 * order[:, None] + torch.arange(frames)).half()[..., None, None, None].expand(-1, -1, 2, 1, 1)
    captions = [f"{clip} {phrasing}" for clip in range(clips) for phrasing in range(phrasings)]
    dataset = StorybookDataset(latents, captions, torch.arange(clips * phrasings).view(clips, phrasings))
    batch = dataset.batch(400, frames=2, generator=torch.Generator().manual_seed(0))
    x = batch.latents
    assert x.shape == (400, 2, 2, 1, 1) and x.dtype == torch.float32
    drawn = [dataset.captions[n].split() for n in batch.captions.tolist()]
    assert [int(clip) for clip, _ in drawn] == (x[:, 0, 0, 0, 0] // 10).int().tolist()
    assert torch.equal(x[:, 1], x[:, 0] + 1) and (x[:, 0] % 10 == 0).all()
    assert len(set(map(tuple, drawn))) == clips * phrasings
    terse = sum(phrasing == "2" for _, phrasing in drawn) / 400
    assert terse == pytest.approx(0.5, abs=0.08), "as often as all the others together"


def test_captions_are_numbered_once_each_in_order() -> None:
    assert number(["b", "a", "b", "c", "a"]) == (["b", "a", "c"], [0, 1, 0, 2, 1])
