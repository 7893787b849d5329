"""The classifier learns what it is shown."""

from functools import partial

import pytest
import torch
from torch import Tensor

from causvid.evaluate.adherence import wanted
from causvid.evaluate.classifier import IGNORED, AttributeClassifier
from causvid.train.classifier import classifier_loss, cross_entropies, disturb, ends, seen
from causvid.worlds.storybook import Scene

VOCABULARIES = {"colour": ("red", "green", "blue"), "motion": ("left", "right")}


def _clips(batch: int, *, frames: int, height: int, width: int, seed: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Draw a coloured square on grey that travels left or right."""
    generator = torch.Generator().manual_seed(seed)
    colour = torch.randint(3, (batch,), generator=generator)
    motion = torch.randint(2, (batch,), generator=generator)
    middle = torch.rand(batch, 2, generator=generator) * 0.4 + 0.3
    step = torch.linspace(-0.25, 0.25, frames)
    x = middle[:, :1] + (2 * motion[:, None] - 1) * step
    columns = (torch.arange(width) + 0.5) / width
    rows = (torch.arange(height) + 0.5) / height
    inside = ((columns - x[:, :, None]).abs() < 0.12)[:, :, None, :] & ((rows - middle[:, 1:]).abs() < 0.2)[
        :, None, :, None
    ]
    paint = torch.eye(3)[colour][:, None, :, None, None]
    pixels = torch.where(inside[:, :, None], paint, torch.full((), 0.4))
    return pixels, {"colour": colour, "motion": motion}


def test_it_learns_colour_and_direction() -> None:
    torch.manual_seed(0)
    model = AttributeClassifier(VOCABULARIES, width=8, rows=24, frames=9)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    generator = torch.Generator().manual_seed(0)
    for step in range(60):
        pixels, labels = _clips(16, frames=9, height=24, width=36, seed=step)
        loss = classifier_loss(model, pixels, labels, generator=generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    pixels, labels = _clips(64, frames=9, height=24, width=36, seed=1000)
    model.eval()
    logits = model(pixels)
    for name, target in labels.items():
        assert (logits[name].argmax(-1) == target).float().mean() >= 0.9, name


def test_ignored_labels_have_no_gradient_and_no_nan() -> None:
    model = AttributeClassifier(VOCABULARIES, width=4, rows=24)
    pixels, labels = _clips(4, frames=9, height=24, width=36, seed=0)
    labels["motion"] = torch.full_like(labels["motion"], IGNORED)
    loss = classifier_loss(model, pixels, labels, generator=torch.Generator().manual_seed(0))
    loss.backward()
    assert loss.isfinite()
    gradients = [weight.grad for weight in model.heads["motion"].parameters()]
    assert all(gradient is not None and not gradient.any() for gradient in gradients)


def test_disturbing_is_reproducible_bounded_and_leaves_its_input() -> None:
    pixels, _ = _clips(3, frames=9, height=24, width=36, seed=0)
    before = pixels.clone()
    first = disturb(pixels, generator=torch.Generator().manual_seed(1))
    second = disturb(pixels, generator=torch.Generator().manual_seed(1))
    assert torch.equal(first, second) and torch.equal(pixels, before)
    assert first.shape == pixels.shape and first.min() >= 0.0 and first.max() <= 1.0
    assert not torch.equal(first, pixels)


def test_labels_of_other_attributes_are_refused() -> None:
    model = AttributeClassifier(VOCABULARIES, width=4)
    with pytest.raises(ValueError, match="labels="):
        classifier_loss(model, torch.rand(1, 9, 3, 48, 48), {}, generator=torch.Generator())


def test_of_a_pair_both_subjects_are_seen_and_of_a_morph_the_one_at_the_end_that_is_shown() -> None:
    scene = partial(Scene, "swan", "red", "lake", "hopping")
    scenes = [scene(second=("cat", "blue")), scene(second=("swan", "red")), scene(morph="cat")]
    model = AttributeClassifier({"subject": ("swan", "cat")}, width=4)
    labels = wanted(model, [one.readable() for one in scenes])
    assert seen(labels).keys() == {"subject"}
    assert seen(labels)["subject"].tolist() == [[0, 1], [0, 0], [IGNORED, IGNORED]]
    shown = [seen(labels, last=torch.tensor([last] * 3))["subject"].tolist() for last in (False, True)]
    assert shown == [[[0, 1], [0, 0], [0, 0]], [[0, 1], [0, 0], [1, 1]]]


def test_two_right_values_are_learnt_as_equally_likely() -> None:
    logits = {"subject": torch.randn(3, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()}
    labels = torch.tensor([[0, 2], [1, 1], [-1, -1]])
    cross_entropies(logits, {"subject": labels}).backward()
    wanted = torch.tensor([[0.5, 0.0, 0.5, 0.0], [0.0, 1.0, 0.0, 0.0]])
    grad = logits["subject"].grad
    assert grad is not None
    assert torch.allclose(grad[:2], (logits["subject"][:2].softmax(1) - wanted) / 2) and not grad[2].any()


def test_the_label_of_a_clip_is_that_of_each_of_its_frames() -> None:
    frames = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([2, -1])
    expected = torch.nn.functional.cross_entropy(frames[0], torch.tensor([2, 2, 2]))
    assert cross_entropies({"subject": frames}, {"subject": labels}).allclose(expected)


def test_ends_of_clips_are_cut_out_each_on_its_own() -> None:
    clips = torch.arange(12.0).view(1, 12, 1, 1, 1).repeat(2, 1, 1, 1, 1)
    assert ends(clips, last=[False, True]).flatten(1).tolist() == [[*range(9)], [*range(3, 12)]]
