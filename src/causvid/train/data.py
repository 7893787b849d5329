"""Stage `data`: render, encode and caption the clips of the world that later stages train on, a shard a step."""

from torch import Tensor

from causvid.data.renders import world_of
from causvid.data.storybook import encode_shard, storybook_shards
from causvid.preset import Preset
from causvid.recipe import required
from causvid.train.loop import Stage
from causvid.train.objective import Metrics, autocast
from causvid.train.roles import Roles
from causvid.train.run import Run


def data_stage(preset: Preset, run: Run) -> Stage:
    """Fill the store."""
    world_of(preset)
    autoencoder = Roles(preset, run).autoencoder()
    shards = storybook_shards(preset, run.folder / "data")

    def encode(pixels: Tensor) -> Tensor:
        with autocast(run.device):
            return autoencoder.encode(pixels)

    def make(n: int) -> Metrics:
        tensors, captions = encode_shard(preset, encode, n, seed=run.seed, device=run.device)
        shards.save(n, tensors, captions)
        latents = tensors["latents"].float()
        return {"latent_std": latents.std(), "latent_mean": latents.mean()}

    settings = required(preset.recipe.data, "data").lasting()
    return Stage("data", shards.count, settings, finish=lambda: shards.repair(make), make=make)
