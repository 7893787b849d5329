"""What training needs of a machine: few packages, and a compiler only where it pays."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from causvid.data.renders import clip_batches, render_batch
from causvid.engine.rollout import rollout
from causvid.flow import add_noise, velocity_target
from causvid.models.transformer import Transformer
from causvid.preset import load_preset
from causvid.recipe import required
from causvid.seeding import step_generator
from causvid.train.objective import autocast
from causvid.train.roles import compile_blocks

BARE = """
import sys
for name in ("av", "diffusers", "matplotlib", "tensorboard", "accelerate", "peft", "fastapi", "torchvision"):
    sys.modules[name] = None
from importlib import import_module
from pathlib import Path
import causvid.train
for file in Path(causvid.train.__path__[0]).glob("*.py"):
    import_module(f"causvid.train.{file.stem}")
import causvid.cli
from causvid.preset import load_preset
from causvid.train import stages
from causvid.train.run import Run
assert stages.run("autoencoder", load_preset("test"), Run(Path(sys.argv[1])))
"""


def test_training_runs_without_any_optional_package(tmp_path):
    source = Path(__file__).parents[2] / "src"
    done = subprocess.run(
        [sys.executable, "-c", BARE, str(tmp_path / "run")],
        env={"PYTHONPATH": str(source), "PATH": "/usr/bin", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "tensorboard is not installed" in done.stderr
    assert (tmp_path / "run" / "autoencoder.safetensors").exists()
    assert (tmp_path / "run" / "autoencoder" / "metrics.jsonl").read_text().count("\n") == 4


def test_a_pool_is_the_same_clips_to_a_byte_and_says_what_it_shows():
    preset, device = load_preset("test"), torch.device("cpu")
    config = required(preset.recipe.autoencoder, "autoencoder").model_copy(update={"pool": 6, "batch": 20, "frames": 9})
    pixels, scenes = render_batch(preset, 6, frames=9, generator=step_generator(0, "pool", 0), device=device)
    drawn, shown = clip_batches(preset, config, seed=0, device=device)(torch.Generator().manual_seed(1))
    assert len({scene.seed for scene in shown}) > 1
    for clip, scene in zip(drawn, shown, strict=True):
        torch.testing.assert_close(clip, pixels[scenes.index(scene)], rtol=0, atol=0.502 / 255)
    chosen = scenes[2].seed
    draw = clip_batches(preset, config, seed=0, device=device, weight=lambda scene: float(scene.seed == chosen))
    assert {scene.seed for scene in draw(torch.Generator().manual_seed(1))[1]} == {chosen}


@pytest.mark.parametrize("grad_first", [True, False])
def test_weights_get_gradients_under_mixed_precision_after_passes_without(grad_first, monkeypatch):
    """A rollout runs passes without gradients and one with them in one autocast region."""

    real = torch.autocast
    monkeypatch.setattr(torch, "autocast", lambda kind, **o: real(kind, **{**o, "enabled": True}))
    model = Transformer(load_preset("test").transformer)
    model.initialise(torch.Generator().manual_seed(0))
    cache = model.new_cache(batch=1, height=4, width=6, window=3, sink=1)
    keys = model.encode_text(torch.randn(1, 5, 32, generator=torch.Generator().manual_seed(1)))
    with autocast(torch.device("cpu")):
        chunks = rollout(
            model,
            keys,
            cache,
            chunks=(1, 3),
            shape=(1, 16, 4, 6),
            sigmas=(1.0, 0.6),
            generator=torch.Generator().manual_seed(2),
            grad_step=0 if grad_first else 1,
        )
        x0 = torch.cat(list(chunks), dim=1)
    x0.float().square().sum().backward()
    assert model.head.weight.grad is not None and model.head.weight.grad.abs().max() > 0


@pytest.mark.slow
def test_compiled_blocks_give_the_loss_and_the_gradients_of_eager_ones():
    preset = load_preset("test")
    losses, gradients = [], []
    for compiled in (False, True):
        model = Transformer(preset.transformer)
        model.initialise(torch.Generator().manual_seed(0))
        with torch.no_grad():
            model.head.weight.normal_(generator=torch.Generator().manual_seed(3), std=0.1)
        names = set(model.state_dict())
        if compiled:
            torch._dynamo.reset()
            torch._dynamo.utils.counters.clear()
            compile_blocks(model)
        assert set(model.state_dict()) == names
        generator = torch.Generator().manual_seed(1)
        total = torch.zeros(())
        for batch, frames in ((6, 1), (2, 4)):  # the shapes of two phases
            x0, noise = (torch.randn(batch, frames, 16, 4, 6, generator=generator) for _ in range(2))
            sigma = torch.rand(batch, 1, generator=generator).expand(-1, frames)
            keys = model.encode_text(torch.randn(batch, 5, 32, generator=generator))
            velocity = model(add_noise(x0, noise, sigma), sigma, keys)
            total = total + functional.mse_loss(velocity, velocity_target(x0, noise))
        total.backward()
        losses.append(total.detach())
        gradients.append([p.grad for p in model.parameters()])
    if compiled:
        torch.testing.assert_close(losses[1], losses[0], rtol=1e-5, atol=1e-6)
        for new, old in zip(gradients[1], gradients[0], strict=True):
            torch.testing.assert_close(new, old, rtol=1e-4, atol=1e-6)
        assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2  # not one for every block
