"""What the stages train on and what their losses reach, and that they learn."""

from collections.abc import Callable

import pytest
import torch
from safetensors.torch import load_file

from causvid.data import storybook
from causvid.data.renders import held_out_prompts
from causvid.data.shards import Shards
from causvid.data.storybook import StorybookDataset
from causvid.flow import add_noise
from causvid.models.text import TextEncoder
from causvid.nn.visibility import FULL
from causvid.recipe import Phase, phase_at
from causvid.train import dmd, ode, teacher
from causvid.train import roles as parts
from causvid.train.loop import Stage
from causvid.train.objective import autocast
from causvid.train.ode import TrajectoryStore
from causvid.train.roles import Roles, embed_captions, token_mask
from causvid.train.run import ORDER, needed
from causvid.train.shapes import student_sigmas, student_visibility
from causvid.worlds.storybook import World, caption, is_held_out, render, sample_scene

CPU = torch.device("cpu")


@pytest.fixture
def roles(chain) -> Roles:
    return Roles(chain.preset, chain.run())


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


def test_every_clip_of_the_store_keeps_its_captions_and_pixels(chain, roles):
    dataset = roles.dataset()
    assert isinstance(dataset, StorybookDataset)
    assert len(set(dataset.captions)) == len(dataset.captions)
    for phrasing in range(storybook.PHRASINGS):
        terse = phrasing == storybook.TERSE
        seeds = [storybook.PHRASINGS * scene.seed + phrasing for scene in chain.scenes]
        wanted = [caption(scene, seed, terse=terse) for scene, seed in zip(chain.scenes, seeds, strict=True)]
        assert [dataset.captions[number] for number in dataset.phrasings[:, phrasing].tolist()] == wanted
    for place in (3, 12):
        pixels = render(
            chain.scenes[place : place + 1], frames=13, height=32, width=48, fps=chain.preset.generation.fps
        )
        with autocast(CPU):
            latent = roles.autoencoder().encode(pixels)[0]
        torch.testing.assert_close(dataset.latents[place].float(), latent, rtol=1e-2, atol=1e-2)


def test_captions_are_embedded_in_batches_as_one_by_one(roles, monkeypatch):
    text, captions = roles.text_encoder(), roles.dataset().captions[:13]
    monkeypatch.setattr(parts, "EMBEDDED_TOGETHER", 5)
    embeddings = embed_captions(text, captions, CPU)
    assert len(embeddings) == 13
    torch.testing.assert_close(embeddings[[3, 12]], text.embed([captions[3], captions[12]]))


@pytest.mark.parametrize("name", ["ode", "dmd"])
def test_distillation_runs_no_text_encoder_in_its_steps(name, chain, monkeypatch):
    stage = chain.build(name)
    monkeypatch.setattr(TextEncoder, "forward", lambda *_: pytest.fail("the text encoder ran"))
    assert all(torch.isfinite(value) for value in chain.step(stage).values())


# --- the teacher's prompts and curriculum


class Seen(Exception):
    """Ends a step before its expensive part."""


@pytest.fixture
def seen_ids(chain, monkeypatch) -> Callable[[Stage, int], torch.Tensor]:
    """Return the token ids that the teacher is trained with in a step."""
    caught: list[torch.Tensor] = []

    def catch(ids: torch.Tensor) -> torch.Tensor:
        caught.append(ids)
        raise Seen

    def look(stage: Stage, step: int) -> torch.Tensor:
        with pytest.raises(Seen):
            chain.step(stage, step)
        return caught.pop()

    monkeypatch.setattr(teacher, "token_mask", catch)
    return look


@pytest.mark.parametrize(("share", "tolerance"), [(0.0, 0.0), (0.1, 0.03), (1.0, 0.0)])
def test_prompts_are_dropped_as_often_as_asked_and_become_the_empty_one(
    share, tolerance, chain, changed, seen_ids, roles
):
    preset = changed("teacher", drop_prompt=share, phases=[{"frames": 1, "batch": 500, "until": 1.0}])
    stage = chain.build("teacher", preset)
    empty = roles.text_encoder().tokens([""])[0]
    known = {tuple(row) for row in roles.text_encoder().tokens(roles.dataset().captions)[0].tolist()}
    ids = torch.cat([seen_ids(stage, step) for step in range(4)])
    dropped = (ids == empty).all(dim=1)
    assert dropped.float().mean().item() == pytest.approx(share, abs=tolerance)
    assert {tuple(row) for row in ids[~dropped].tolist()} <= known and tuple(empty[0].tolist()) not in known


def test_the_null_text_is_the_embedding_of_the_empty_prompt(chain, roles, monkeypatch):
    text = roles.text_encoder()
    empty = text.embed([""])
    ids = text.tokens(["", "a red fish"])[0]
    torch.testing.assert_close(text(ids, token_mask(ids))[:1], empty)
    assert empty.abs().sum() > 0 and (empty[0, 1:] == 0).all()

    with autocast(CPU):
        expected = roles.teacher().encode_text(empty)
    for module, stage in ((ode, "pairs"), (dmd, "dmd")):
        nulls = []

        def guided(model, keys, null_keys, *, guidance, visibility, nulls=nulls):
            if guidance != 1:
                nulls.append(null_keys)
            return lambda x, sigma: model(x, sigma, keys)

        with monkeypatch.context() as patch:
            patch.setattr(module, "guided_velocity", guided)
            patch.setattr(Shards, "save", lambda *_: None)
            chain.step(chain.build(stage))
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
    stage = chain.build("teacher", preset)
    assert [len(seen_ids(stage, n)) for n in range(8)] == [8, 8, 6, 6, 3, 3, 3, 3]


def test_every_phase_trains_on_its_own_number_of_frames(chain, changed):
    preset = changed("teacher", phases=[{"frames": n, "batch": 2, "until": n / 4} for n in (1, 2, 4)])
    stage = chain.build("teacher", preset)
    assert [int(chain.step(stage, n)["frames"]) for n in range(4)] == [1, 2, 4, 4]


# --- who learns from which loss


def without_gradients(model: torch.nn.Module) -> bool:
    return all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("student_input", ["data", "rollout"])
def test_the_student_learns_from_its_loss_alone_and_the_critic_from_its_own(student_input, chain, changed, monkeypatch):
    preset = changed("dmd", student_input=student_input, critic_updates=3)
    stage = chain.build("dmd", preset)
    student, critic = stage.modules["student"], stage.modules["critic"]
    before = {name: module.head.weight.detach().clone() for name, module in stage.modules.items()}
    calls = []
    critic_loss, student_loss = dmd.critic_loss, dmd.student_loss

    def judge_critic(x0, **options):
        calls.append("critic")
        assert not x0.requires_grad and without_gradients(student)
        return critic_loss(x0, **options)

    def judge_student(x0, **options):
        calls.append("student")
        assert x0.requires_grad and without_gradients(student)
        assert torch.equal(student.head.weight, before["student"])
        assert not torch.equal(critic.head.weight, before["critic"])
        before["critic"] = critic.head.weight.detach().clone()
        return student_loss(x0, **options)

    monkeypatch.setattr(dmd, "critic_loss", judge_critic)
    monkeypatch.setattr(dmd, "student_loss", judge_student)
    chain.step(stage, 0)
    assert calls == ["critic"] * 3 + ["student"]
    assert torch.equal(critic.head.weight, before["critic"])
    assert not torch.equal(student.head.weight, before["student"])


@pytest.mark.parametrize(("student_input", "batches"), [("data", 3), ("rollout", 1)])
def test_critic_updates_share_a_rollout_but_not_noised_data(student_input, batches, chain, changed, monkeypatch):
    stage = chain.build("dmd", changed("dmd", student_input=student_input, critic_updates=3))
    samples, noises = [], []
    critic_loss = dmd.critic_loss

    def judge(x0, *, noise, **options):
        samples.append(x0)
        noises.append(noise)
        return critic_loss(x0, noise=noise, **options)

    monkeypatch.setattr(dmd, "critic_loss", judge)
    chain.step(stage, 0)
    assert len({float(x0.sum()) for x0 in samples}) == batches and len({float(n.sum()) for n in noises}) == 3


def test_there_are_as_many_critic_updates_to_one_of_the_student_as_asked(chain):
    saved = torch.load(chain.folder / "dmd" / "checkpoint.pt", weights_only=True)["state"]
    config = chain.preset.recipe.dmd
    for name, updates in (
        ("student optimizer", config.steps),
        ("critic optimizer", config.steps * config.critic_updates),
    ):
        assert {int(state["step"]) for state in saved[name]["state"].values()} == {updates}


@pytest.mark.parametrize(("resting", "moving"), [("student", "critic"), ("critic", "student")])
def test_student_and_critic_have_rates_of_their_own(resting, moving, chain, changed):
    rates = {"learning_rate": 1e-3, "critic_learning_rate": 1e-3}
    rates["learning_rate" if resting == "student" else "critic_learning_rate"] = 0.0
    stage = chain.build("dmd", changed("dmd", **rates))
    before = {name: stage.modules[name].head.weight.detach().clone() for name in (resting, moving)}
    chain.step(stage, 0)
    assert torch.equal(stage.modules[resting].head.weight, before[resting])
    assert not torch.equal(stage.modules[moving].head.weight, before[moving])


def test_distillation_starts_from_the_weights_it_is_told_to(chain, changed):
    for start, name in (("ode", "student_ode"), ("teacher", "teacher")):
        student = chain.build("dmd", changed("dmd", start=start)).modules["student"].state_dict()
        wanted = load_file(chain.folder / f"{name}.safetensors")
        assert all(torch.equal(student[key], wanted[key]) for key in wanted)
    assert needed(changed("dmd", start="teacher")) == tuple(stage for stage in ORDER if stage not in ("pairs", "ode"))


# --- that they learn


FITTED = {"warmup": 1, "learning_rate": 3e-3}


@pytest.fixture
def fall(chain) -> Callable[..., float]:
    """Take one and the same step again and again; return what is left of its loss."""

    def repeat(stage: Stage, steps: int, name: str = "loss") -> float:
        first, *_, last = (float(chain.step(stage)[name]) for _ in range(steps + 1))
        return last / first

    return repeat


@pytest.mark.parametrize(
    ("stage", "steps", "left"), [("autoencoder", 20, 0.8), ("classifier", 12, 0.8), ("teacher", 30, 0.8)]
)
def test_the_loss_of_a_batch_seen_again_and_again_falls(stage, steps, left, chain, changed, fall):
    settings = {**FITTED, "phases": [{"frames": 4, "batch": 4, "until": 1.0}]} if stage == "teacher" else FITTED
    preset = changed(stage, **settings)
    assert preset.autoencoder is not None
    plain = preset.autoencoder.model_copy(update={"shortcut": False})  # with it, there is little left to learn
    preset = preset.model_copy(update={"autoencoder": plain}) if stage == "autoencoder" else preset
    built = chain.build(stage, preset)
    assert fall(built, steps) < left


def test_the_student_learns_where_trajectories_end(chain, changed, fall, roles, monkeypatch):
    """Ends that the teacher would never give, so that the student has something to learn."""
    real = roles.dataset()
    assert isinstance(real, StorybookDataset)
    clean = real.latents.float()
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    levels = (*student_sigmas(chain.preset), 0.0)
    states = [add_noise(clean, noise, torch.full(clean.shape[:2], level)) for level in levels]
    store = TrajectoryStore(torch.stack(states, dim=1), real.captions, real.phrasings[:, 0])
    monkeypatch.setattr(TrajectoryStore, "open", lambda *_, **__: store)
    assert fall(chain.build("ode", changed("ode", **FITTED)), 30) < 0.8


def test_the_critic_learns_what_the_student_makes(chain, changed, fall):
    settings = {"warmup": 1, "learning_rate": 0.0, "critic_learning_rate": 3e-3}
    assert fall(chain.build("dmd", changed("dmd", **settings)), 15, "critic_loss") < 0.8


@pytest.mark.parametrize("student_input", ["data", "rollout"])
def test_the_student_goes_from_where_the_critic_sees_it_to_where_the_teacher_wants_it(
    student_input, chain, changed, roles
):
    settings = {"warmup": 1, "learning_rate": 1e-3, "critic_learning_rate": 0.0, "critic_updates": 1, "guidance": 1.0}
    stage = chain.build("dmd", changed("dmd", student_input=student_input, **settings))
    student, critic = stage.modules["student"], stage.modules["critic"]
    with torch.no_grad():  # velocities too high by 1: the critic believes in darker latents than the teacher
        critic.head.bias += 1.0
    text = roles.text_encoder()
    x = torch.randn(2, 4, 16, 4, 6, generator=torch.Generator().manual_seed(0))

    @torch.no_grad()
    def mean_x0() -> float:
        keys = student.encode_text(text.embed(["a red fish", "a blue cat"]))
        visibility = student_visibility(chain.preset)
        assert visibility != FULL
        return (x - student(x, torch.ones(2, 4), keys, visibility=visibility)).mean().item()

    before = mean_x0()
    for n in range(4):
        chain.step(stage, n)
    assert mean_x0() > before + 1e-3


def test_the_decoder_alone_changes_and_gets_better_at_what_the_teacher_brings_back(chain, changed):
    stage = chain.build("decoder", changed("decoder", steps=60, warmup=1, learning_rate=5e-4))
    model, before = stage.modules["model"], load_file(chain.folder / "autoencoder.safetensors")
    first, *_, again = [float(chain.step(stage, 0)["loss"]) for _ in range(30)]
    assert again < 0.97 * first
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved and all(name.startswith("decoder.") for name in moved)
