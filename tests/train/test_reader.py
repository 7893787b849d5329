"""The reader learns what latents show, and teacher and student to make latents that read as they should."""

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from causvid.data.storybook import TERSE, StorybookDataset, stored_scenes
from causvid.evaluate.classifier import IGNORED, labels_of
from causvid.preset import Preset, load_preset
from causvid.train.reader import LatentReader, compare, misreading, new_reader, told_by_captions
from causvid.train.run import needed


def perceptual_loss(model: LatentReader, predicted: Tensor, latents: Tensor, near: Tensor) -> Tensor:
    apart, read = compare(model, predicted, latents, near)
    torch.testing.assert_close(read, model(predicted))
    return apart


def reader() -> LatentReader:
    torch.manual_seed(0)
    model = LatentReader(16, {"colour": ("red", "blue")}, width=8)
    model(torch.randn(32, 2, 16, 4, 6))  # statistics of a batch
    return model.eval().requires_grad_(False)


def test_it_learns_to_tell_what_it_has_seen(chain, changed) -> None:
    stage = chain.build("reader", changed("reader", warmup=1, learning_rate=1e-2))
    right = [float(chain.step(stage)["subject"]) for _ in range(40)]
    assert right[0] < 0.7 and right[-1] > 0.9
    moved = chain.step(chain.build("reader", changed("reader", frames=4)))
    assert "motion" in moved and "motion" not in chain.step(stage)


def test_only_near_frames_count_and_only_where_they_differ() -> None:
    model, true = reader(), torch.randn(3, 2, 16, 4, 6)
    near = torch.tensor([[True, False], [True, True], [False, False]])
    assert perceptual_loss(model, true, true, near) == pytest.approx(0, abs=1e-6)
    other = torch.where(near[:, :, None, None, None], true, torch.randn(true.shape))
    assert perceptual_loss(model, other, true, near) == pytest.approx(0, abs=1e-6)
    half = perceptual_loss(model, true.lerp(torch.randn(true.shape), 0.3), true, near)
    assert 0 < half < perceptual_loss(model, torch.randn(true.shape), true, near)


def test_it_reads_what_moves_off_clips_and_all_else_off_frames() -> None:
    torch.manual_seed(0)
    model = LatentReader(16, {"colour": ("red", "blue"), "motion": ("left", "right", "up")}, width=8)
    logits = model(torch.randn(5, 4, 16, 4, 6))
    assert {name: tuple(got.shape) for name, got in logits.items()} == {"colour": (5, 4, 2), "motion": (5, 3)}
    assert model(torch.randn(5, 1, 16, 4, 6)).keys() == {"colour"}


def test_a_frame_looks_different_after_another_one() -> None:
    model, clips = reader(), torch.randn(3, 2, 16, 4, 6)
    others = torch.cat((torch.randn(3, 1, 16, 4, 6), clips[:, 1:]), dim=1)
    for own, moved in zip(model.look(clips), model.look(others), strict=True):
        assert (own - moved).unflatten(0, (3, 2))[:, 1].abs().max() > 0.01
    last = torch.tensor([[False, True]]).expand(3, 2)
    assert perceptual_loss(model, others, clips, last) > 0.01


def test_it_pulls_a_prediction_towards_what_reads_alike() -> None:
    model, true = reader(), torch.randn(3, 1, 16, 4, 6)
    predicted, near = torch.zeros_like(true).requires_grad_(), torch.ones(3, 1, dtype=torch.bool)
    before = perceptual_loss(model, predicted, true, near)
    (gradient,) = torch.autograd.grad(before, predicted)
    assert perceptual_loss(model, predicted - 0.5 * gradient / gradient.abs().max(), true, near) < before


def test_the_teacher_adds_it_by_its_weight_below_its_noise_level(chain, changed) -> None:
    plain = chain.step(chain.build("teacher"))["loss"]
    rows = [
        chain.step(chain.build("teacher", changed("teacher", perceptual=weight, near_below=below)))
        for weight, below in ((0.1, 1.0), (0.2, 1.0), (0.1, 0.8), (0.1, 0.0))
    ]
    for weight, row in zip((0.1, 0.2, 0.1, 0.1), rows, strict=True):
        torch.testing.assert_close(row["flow"], plain)
        torch.testing.assert_close(row["loss"], row["flow"] + weight * row["perceptual"])
    assert rows[0]["perceptual"] > rows[2]["perceptual"] > rows[3]["perceptual"] == 0


def test_the_student_is_rewarded_by_its_weight(chain, changed) -> None:
    plain = chain.step(chain.build("dmd"))["student_loss"]
    for weight in (0.1, 0.2):
        row = chain.step(chain.build("dmd", changed("dmd", reward=weight)))
        torch.testing.assert_close(row["student_matched"], plain)
        torch.testing.assert_close(row["student_loss"], row["student_matched"] + weight * row["student_missed"])
        assert row["student_missed"] > 0


def test_the_teacher_is_rewarded_by_its_weight_below_its_noise_level(chain, changed) -> None:
    rows = [
        chain.step(chain.build("teacher", changed("teacher", reward=0.1, near_below=below)))
        for below in (1.0, 0.8, 0.0)
    ]
    for row in rows:
        torch.testing.assert_close(row["loss"], row["flow"] + 0.1 * row["missed"])
    assert rows[0]["missed"] != rows[1]["missed"] > rows[2]["missed"] == 0


def test_full_captions_tell_all_that_a_scene_shows_and_terse_ones_the_subject(chain) -> None:
    data, run = chain.folder / "data", chain.run()
    dataset = StorybookDataset.open(chain.preset, data, device=run.device)
    model = new_reader(chain.preset, run)
    labels = labels_of(model.vocabularies, [scene.readable() for scene in stored_scenes(chain.preset, data)])
    assert all((label != IGNORED).any() for label in labels.values())
    told = told_by_captions(model, dataset, chain.preset, run)
    full, terse = dataset.phrasings[:, 0], dataset.phrasings[:, TERSE]
    shorter = ~torch.isin(terse, dataset.phrasings[:, :TERSE])
    assert shorter.any()
    for name, label in labels.items():
        assert torch.equal(told[name][full], label)
        assert torch.equal(
            told[name][terse[shorter]],
            label[shorter] if name == "subject" else torch.full_like(label[shorter], IGNORED),
        )


def test_what_is_misread_of_the_clips_that_count() -> None:
    read = {"colour": torch.tensor([[9.0, 0.0], [9.0, 0.0], [0.0, 9.0]])}
    told, captions = {"colour": torch.tensor([IGNORED, 0, 1])}, torch.tensor([1, 2, 0])
    assert misreading(read, told, captions).item() == pytest.approx(4.5, abs=1e-3)
    assert misreading(read, told, captions, counts=torch.tensor([True, False, True])).item() < 1e-3
    assert misreading(read, told, captions, counts=torch.tensor([False, False, True])) == 0


def test_what_cannot_be_is_refused(chain, changed, tmp_path) -> None:
    recipe = chain.preset.recipe
    for stage, weight in (("teacher", "perceptual"), ("teacher", "reward"), ("dmd", "reward")):
        settings = {**getattr(recipe, stage).model_dump(), weight: 0.1}
        with pytest.raises(ValidationError, match=rf"{stage}\.{weight}=0\.1 needs the settings of stage reader"):
            type(recipe).model_validate({stage: settings})
    chain.copy(tmp_path / "run", without=("reader",))
    with pytest.raises(ValueError, match="run `causvid train reader` first"):
        chain.train("teacher", tmp_path / "run", changed("teacher", perceptual=0.1))
    with pytest.raises(ValueError, match="run `causvid train reader` first"):
        chain.train("dmd", tmp_path / "run", changed("dmd", reward=0.1))
    long = changed("reader", frames=9).model_dump()
    with pytest.raises(ValidationError, match="frames=9 is not from 1 to clip_frames=4"):
        Preset.model_validate(long)


@pytest.mark.parametrize(("begin", "reads"), [(None, True), ("teacher", True), ("decoder", False)])
def test_it_is_trained_where_the_teacher_is(begin: str | None, reads: bool) -> None:
    preset = load_preset("test")
    if begin is not None:
        preset = preset.model_copy(update={"start": "somewhere", "start_at": begin})
    assert ("reader" in needed(preset)) is reads is ("teacher" in needed(preset))
