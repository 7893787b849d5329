"""What the stages train on and what their losses reach, and that they learn."""

import importlib
from collections.abc import Callable

import pytest
import torch
from safetensors.torch import load_file

from causvid.config import Phase
from causvid.flow import add_noise
from causvid.models.text import TextEncoder
from causvid.nn.visibility import FULL
from causvid.train import data, dmd, ode, pairs, teacher
from causvid.data.clips import ClipStore, held_out_prompts, load_autoencoder
from causvid.train.loop import Stage
from causvid.train.optimizer import autocast
from causvid.train.pairs import PairStore, student_sigmas
from causvid.data.shards import Shards
from causvid.train.teacher import embed_captions, load_text_encoder, new_transformer, phase_at, token_mask
from causvid.data.storybook import render_scenes
from causvid.worlds.storybook import World, caption, is_held_out, sample_scene


def build(stage: str, *arguments: object) -> Stage:
    return getattr(importlib.import_module(f"causvid.train.{stage}"), f"{stage}_stage")(*arguments)


def held_out(scene) -> bool:
    return is_held_out(scene.subject, scene.colour, scene.place, scene.motion)


# --- the store


def test_no_held_out_combination_is_in_the_store(chain):
    assert len(chain.scenes) == chain.preset.recipe.data.clips
    assert not any(map(held_out, chain.scenes))
    world = World.preset("nano")
    assert not any(held_out(sample_scene(world, seed, split="train")) for seed in range(500))
    asked = [sample_scene(world, seed, split="held-out") for seed in range(50)]
    assert all(map(held_out, asked))
    assert held_out_prompts(chain.preset, 50) == [caption(scene, seed) for seed, scene in enumerate(asked)]


def test_every_clip_of_the_store_keeps_its_own_captions_and_pixels(chain):
    store, run = ClipStore.open(chain.preset, chain.run()), chain.run()
    text, autoencoder = load_text_encoder(chain.preset, run), load_autoencoder(chain.preset, run)
    for phrasing in range(data.PHRASINGS):
        terse = phrasing == data.TERSE
        seeds = [data.PHRASINGS * scene.seed + phrasing for scene in chain.scenes]
        told = [caption(scene, seed, terse=terse) for scene, seed in zip(chain.scenes, seeds, strict=True)]
        ids, _ = text.tokens(told)
        assert torch.equal(store.ids[:, phrasing].long(), ids)
    for place in (3, 12):
        pixels = render_scenes(chain.preset, chain.scenes[place : place + 1], frames=13, device=run.device)
        latent = autoencoder.encode(pixels)[0]
        torch.testing.assert_close(store.latents[place].float(), latent, rtol=1e-2, atol=1e-2)


def test_a_draw_keeps_clip_and_caption_together_and_reaches_all_of_them():
    clips, frames, phrasings = 5, 4, 3
    number = torch.arange(clips)
    latents = (10 * number[:, None] + torch.arange(frames)).half()[..., None, None, None].expand(-1, -1, 2, 1, 1)
    ids = (10 * number[:, None] + torch.arange(phrasings)).int()[..., None].expand(-1, -1, 6)
    generator = torch.Generator().manual_seed(0)
    x, drawn = ClipStore(latents, ids).draw(400, frames=2, generator=generator, device=torch.device("cpu"))
    assert x.shape == (400, 2, 2, 1, 1) and x.dtype == torch.float32 and drawn.dtype == torch.int64
    assert torch.equal(x[:, 0, 0, 0, 0] // 10, (drawn[:, 0] // 10).float())
    assert torch.equal(x[:, 1], x[:, 0] + 1) and (x[:, 0] % 10 == 0).all()
    assert len(set(drawn[:, 0].tolist())) == clips * phrasings
    last = (drawn[:, 0] % 10 == phrasings - 1).float().mean().item()
    assert last == pytest.approx(0.5, abs=0.08), "as often as all the others together"


def test_a_caption_is_embedded_once_and_found_by_its_row(chain, monkeypatch):
    store, text = ClipStore.open(chain.preset, chain.run()), load_text_encoder(chain.preset, chain.run())
    ids = torch.cat((store.ids, store.ids.flip(0)))
    monkeypatch.setattr(teacher, "EMBEDDED_TOGETHER", 5)
    embeddings, rows = embed_captions(text, ids)
    distinct = {tuple(row) for row in ids.flatten(0, 1).tolist()}
    assert len(embeddings) == len(distinct) < ids[..., 0].numel() and rows.shape == ids.shape[:2]
    picked = ids[3].long()
    torch.testing.assert_close(embeddings[rows[3]], text(picked, token_mask(picked)))


@pytest.mark.parametrize("name", ["ode", "dmd"])
def test_distillation_runs_no_text_encoder_in_its_steps(name, chain, monkeypatch):
    stage = build(name, chain.preset, chain.run())
    monkeypatch.setattr(TextEncoder, "forward", lambda *_: pytest.fail("the text encoder ran"))
    assert torch.isfinite(stage.step(0)["loss"])


# --- the teacher's prompts and curriculum


class Seen(Exception):
    """Ends a step before its expensive part."""


@pytest.fixture
def seen_ids(monkeypatch) -> Callable[[Stage, int], torch.Tensor]:
    """Return the token ids that the teacher is trained with in a step."""
    caught: list[torch.Tensor] = []

    def catch(ids: torch.Tensor) -> torch.Tensor:
        caught.append(ids)
        raise Seen

    def look(stage: Stage, step: int) -> torch.Tensor:
        with pytest.raises(Seen):
            stage.step(step)
        return caught.pop()

    monkeypatch.setattr(teacher, "token_mask", catch)
    return look


@pytest.mark.parametrize(("share", "tolerance"), [(0.0, 0.0), (0.1, 0.03), (1.0, 0.0)])
def test_prompts_are_dropped_as_often_as_asked_and_become_the_empty_one(share, tolerance, chain, changed, seen_ids):
    preset = changed("teacher", drop_prompt=share, phases=[{"frames": 1, "batch": 500, "until": 1.0}])
    stage = build("teacher", preset, chain.run())
    empty = load_text_encoder(preset, chain.run()).tokens([""])[0]
    known = {tuple(row) for row in ClipStore.open(preset, chain.run()).ids.flatten(0, 1).tolist()}
    ids = torch.cat([seen_ids(stage, step) for step in range(4)])
    dropped = (ids == empty).all(dim=1)
    assert dropped.float().mean().item() == pytest.approx(share, abs=tolerance)
    assert {tuple(row) for row in ids[~dropped].tolist()} <= known and tuple(empty[0].tolist()) not in known


def test_the_null_text_is_the_embedding_of_the_empty_prompt(chain, monkeypatch):
    text = load_text_encoder(chain.preset, chain.run())
    empty = text.embed([""])
    ids = text.tokens(["", "a red fish"])[0]
    torch.testing.assert_close(text(ids, token_mask(ids))[:1], empty)
    assert empty.abs().sum() > 0 and (empty[0, 1:] == 0).all()

    with autocast(chain.run()):
        expected = new_transformer(chain.preset, chain.run(), weights="teacher.safetensors").encode_text(empty)
    for module, stage in ((pairs, "pairs"), (dmd, "dmd")):
        nulls = []

        def guided(model, keys, null_keys, *, guidance, visibility, nulls=nulls):
            if guidance != 1:
                nulls.append(null_keys)
            return lambda x, sigma: model(x, sigma, keys)

        with monkeypatch.context() as patch:
            patch.setattr(module, "guided_velocity", guided)
            patch.setattr(Shards, "save", lambda *_: None)
            build(stage, chain.preset, chain.run()).step(0)
        assert nulls
        for got, wanted in zip(nulls[0].keys, expected.keys, strict=True):
            torch.testing.assert_close(got, wanted.expand_as(got), rtol=1e-4, atol=1e-5)


def test_the_curriculum_goes_from_pictures_to_clips(chain, changed, seen_ids):
    phases = (
        Phase(frames=1, batch=8, until=0.25),
        Phase(frames=2, batch=6, until=0.5),
        Phase(frames=4, batch=3, until=1),
    )
    assert [phase_at(phases, n / 8).frames for n in range(8)] == [1, 1, 2, 2, 4, 4, 4, 4]
    assert phase_at(phases[:2], 0.9).frames == 2  # the last one goes on
    preset = changed("teacher", steps=8, phases=[phase.model_dump() for phase in phases])
    stage = build("teacher", preset, chain.run())
    assert [len(seen_ids(stage, n)) for n in range(8)] == [8, 8, 6, 6, 3, 3, 3, 3]


def test_every_phase_trains_on_its_own_number_of_frames(chain, changed):
    preset = changed("teacher", phases=[{"frames": n, "batch": 2, "until": n / 4} for n in (1, 2, 4)])
    stage = build("teacher", preset, chain.run())
    assert [int(stage.step(n)["frames"]) for n in range(4)] == [1, 2, 4, 4]


# --- who learns from which loss


def without_gradients(model: torch.nn.Module) -> bool:
    return all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("student_input", ["data", "rollout"])
def test_the_student_learns_from_its_loss_alone_and_the_critic_from_its_own(student_input, chain, changed, monkeypatch):
    preset = changed("dmd", student_input=student_input, critic_updates=3)
    stage = build("dmd", preset, chain.run())
    student, critic = stage.state["student"], stage.state["critic"]
    calls = []
    critic_loss, student_loss = dmd.critic_loss, dmd.student_loss

    def judge_critic(x0, **options):
        calls.append("critic")
        assert not x0.requires_grad and without_gradients(student)
        return critic_loss(x0, **options)

    def judge_student(x0, **options):
        calls.append("student")
        assert x0.requires_grad and without_gradients(student) and not without_gradients(critic)
        critic.zero_grad(set_to_none=True)
        return student_loss(x0, **options)

    monkeypatch.setattr(dmd, "critic_loss", judge_critic)
    monkeypatch.setattr(dmd, "student_loss", judge_student)
    stage.step(0)
    assert calls == ["critic"] * 3 + ["student"]
    assert without_gradients(critic) and not without_gradients(student)


@pytest.mark.parametrize(("student_input", "batches"), [("data", 3), ("rollout", 1)])
def test_critic_updates_share_a_rollout_but_not_noised_data(student_input, batches, chain, changed, monkeypatch):
    stage = build("dmd", changed("dmd", student_input=student_input, critic_updates=3), chain.run())
    samples, noises = [], []
    critic_loss = dmd.critic_loss

    def judge(x0, *, noise, **options):
        samples.append(x0)
        noises.append(noise)
        return critic_loss(x0, noise=noise, **options)

    monkeypatch.setattr(dmd, "critic_loss", judge)
    stage.step(0)
    assert len({float(x0.sum()) for x0 in samples}) == batches and len({float(n.sum()) for n in noises}) == 3


def test_there_are_as_many_critic_updates_to_one_of_the_student_as_asked(chain):
    saved = torch.load(chain.folder / "dmd" / "checkpoint.pt", weights_only=True)["state"]
    config = chain.preset.recipe.dmd
    for name, updates in (("optimizer", config.steps), ("critic_optimizer", config.steps * config.critic_updates)):
        assert {int(state["step"]) for state in saved[name]["state"].values()} == {updates}


@pytest.mark.parametrize(("resting", "moving"), [("student", "critic"), ("critic", "student")])
def test_student_and_critic_have_rates_of_their_own(resting, moving, chain, changed):
    rates = {"learning_rate": 1e-3, "critic_learning_rate": 1e-3}
    rates["learning_rate" if resting == "student" else "critic_learning_rate"] = 0.0
    stage = build("dmd", changed("dmd", **rates), chain.run())
    before = {name: stage.state[name].head.weight.detach().clone() for name in (resting, moving)}
    stage.step(0)
    assert torch.equal(stage.state[resting].head.weight, before[resting])
    assert not torch.equal(stage.state[moving].head.weight, before[moving])


# --- that they learn


FITTED = {"warmup": 1, "learning_rate": 3e-3}


def fall(stage: Stage, steps: int, name: str = "loss") -> float:
    """Take one and the same step again and again; return what is left of its loss."""
    first = float(stage.step(0)[name])
    for _ in range(steps):
        last = float(stage.step(0)[name])
    return last / first


@pytest.mark.parametrize(
    ("stage", "steps", "left"), [("autoencoder", 20, 0.8), ("classifier", 12, 0.8), ("teacher", 30, 0.8)]
)
def test_the_loss_of_a_batch_seen_again_and_again_falls(stage, steps, left, chain, changed):
    settings = {**FITTED, "phases": [{"frames": 4, "batch": 4, "until": 1.0}]} if stage == "teacher" else FITTED
    preset = changed(stage, **settings)
    assert preset.autoencoder is not None
    plain = preset.autoencoder.model_copy(update={"shortcut": False})  # with it, there is little left to learn
    preset = preset.model_copy(update={"autoencoder": plain}) if stage == "autoencoder" else preset
    built = build(stage, preset, chain.run())
    assert fall(built, steps) < left


def test_the_student_learns_where_trajectories_end(chain, changed, monkeypatch):
    """Ends that the teacher would never give, so that the student has something to learn."""
    real = ClipStore.open(chain.preset, chain.run())
    clean = real.latents.float()
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    levels = (*student_sigmas(chain.preset), 0.0)
    states = [add_noise(clean, noise, torch.full(clean.shape[:2], level)) for level in levels]
    store = PairStore(torch.stack(states, dim=1), real.ids[:, 0])
    monkeypatch.setattr(PairStore, "open", lambda preset, run: store)
    assert fall(build("ode", changed("ode", **FITTED), chain.run()), 30) < 0.8


def test_the_critic_learns_what_the_student_makes(chain, changed):
    settings = {"warmup": 1, "learning_rate": 0.0, "critic_learning_rate": 3e-3}
    assert fall(build("dmd", changed("dmd", **settings), chain.run()), 15, "critic_loss") < 0.8


@pytest.mark.parametrize("student_input", ["data", "rollout"])
def test_the_student_goes_from_where_the_critic_sees_it_to_where_the_teacher_wants_it(student_input, chain, changed):
    settings = {"warmup": 1, "learning_rate": 1e-3, "critic_learning_rate": 0.0, "critic_updates": 1, "guidance": 1.0}
    stage = build("dmd", changed("dmd", student_input=student_input, **settings), chain.run())
    student, critic = stage.state["student"], stage.state["critic"]
    assert torch.equal(student.head.weight, student.head.weight) and student is not critic
    with torch.no_grad():  # velocities too high by 1: the critic believes in darker latents than the teacher
        critic.head.bias += 1.0
    text = load_text_encoder(chain.preset, chain.run())
    x = torch.randn(2, 4, 16, 4, 6, generator=torch.Generator().manual_seed(0))

    @torch.no_grad()
    def mean_x0() -> float:
        keys = student.encode_text(text.embed(["a red fish", "a blue cat"]))
        visibility = ode.student_visibility(chain.preset)
        assert visibility != FULL
        return (x - student(x, torch.ones(2, 4), keys, visibility=visibility)).mean().item()

    before = mean_x0()
    for n in range(4):
        stage.step(n)
    assert mean_x0() > before + 1e-3


def test_the_decoder_alone_changes_and_gets_better_at_what_the_teacher_brings_back(chain, changed):
    stage = build("decoder", changed("decoder", steps=60, warmup=1, learning_rate=5e-4), chain.run())
    model, before = stage.state["model"], load_file(chain.folder / "autoencoder.safetensors")
    first, *_, again = [float(stage.step(0)["loss"]) for _ in range(30)]
    assert again < 0.97 * first
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved and all(name.startswith("decoder.") for name in moved)
