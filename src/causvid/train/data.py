"""Stage `data`: clips rendered, encoded and captioned once, and the store that later stages draw from.

Letters: N clips, F latent frames, C channels, h w latent rows and columns, P phrasings of a caption, M text tokens.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from causvid.models.autoencoder import pixel_frames
from causvid.models.subword import train_subword_tokenizer
from causvid.models.text import TextEncoder, train_tokenizer
from causvid.models.tiny_autoencoder import TinyAutoencoder
from causvid.preset import Preset
from causvid.train.artifacts import load_weights
from causvid.train.autoencoder import channels_last
from causvid.train.loop import Run, Stage, step_generator
from causvid.train.shards import Shards
from causvid.train.world import captions, render_batch, world_of
from causvid.worlds.storybook import World, caption, sample_scene, words

SHARD = 512
PHRASINGS = 4
TERSE = 3
"""The phrasing that leaves things out, so that a short prompt is not a mixture of all it does not say."""


def load_autoencoder(preset: Preset, run: Run, *, trained_by: str | None = None) -> TinyAutoencoder:
    """Return the run's autoencoder, frozen: as one stage left it, by default the last that has worked on it."""
    if trained_by is None:
        trained_by = "decoder" if (run.folder / "decoder.safetensors").is_file() else "autoencoder"
    model = TinyAutoencoder(preset.autoencoder_sizes)
    load_weights(model, run.folder / f"{trained_by}.safetensors", made_by=trained_by)
    return channels_last(model.to(run.device)).eval().requires_grad_(False)


def new_text_encoder(preset: Preset, run: Run) -> TextEncoder:
    """Make an untrained text encoder, with a tokenizer that knows every word of the world's captions.

    The rich language is cut into subwords.
    """
    world = world_of(preset)
    tokenizer = (train_subword_tokenizer if world.language == "rich" else train_tokenizer)(_corpus(world))
    encoder = TextEncoder.create(preset.text, tokenizer, generator=step_generator(run.seed, "text", 0))
    return encoder.to(run.device)


@lru_cache(maxsize=1)
def _corpus(world: World) -> tuple[str, ...]:
    scenes = (sample_scene(world, seed, split="all") for seed in range(4000))
    captions_of_seeds = (caption(scene, scene.seed, language=world.language) for scene in scenes)
    return (*captions_of_seeds, " ".join(words(world)))


def data_stage(preset: Preset, run: Run) -> Stage:
    """Fill the store, one shard of clips a step."""
    config = preset.recipe.data
    autoencoder = load_autoencoder(preset, run)
    text = new_text_encoder(preset, run)
    shards = _shards(preset, run)
    frames = pixel_frames(preset.generation.clip_frames)

    @torch.no_grad()
    def step(n: int) -> dict[str, Tensor]:
        generator = step_generator(run.seed, "data", n)
        latents, ids = [], []
        left = min(SHARD, config.clips - n * SHARD)
        while left:
            batch = min(config.batch, left)
            left -= batch
            pixels, scenes = render_batch(preset, batch, frames=frames, generator=generator, device=run.device)
            latents.append(autoencoder.encode(pixels).half().cpu())
            for phrasing in range(PHRASINGS):
                seeds = [PHRASINGS * s.seed + phrasing for s in scenes]
                ids.append(text.tokens(captions(preset, scenes, seeds, terse=phrasing == TERSE))[0])
        stacked = torch.cat(latents)
        grouped = [torch.stack(ids[i : i + PHRASINGS], dim=1) for i in range(0, len(ids), PHRASINGS)]
        shards.save(n, {"latents": stacked, "ids": torch.cat(grouped).to(torch.int32)})
        return {"latent_std": stacked.float().std(), "latent_mean": stacked.float().mean()}

    return Stage(
        name="data",
        steps=shards.count,
        settings=config.lasting(),
        state={},
        step=step,
        finish=lambda: shards.mend(step),
    )


def _shards(preset: Preset, run: Run) -> Shards:
    return Shards(run.folder, "data", "clips", -(-preset.recipe.data.clips // SHARD))


@dataclass(frozen=True)
class ClipStore:
    """Encoded clips in memory: latents half `[N, F, C, h, w]` and token ids int32 `[N, P, M]`.

    In place of token ids, `ids` may hold one number for each caption, `[N, P]`.
    """

    latents: Tensor
    ids: Tensor

    @classmethod
    def open(cls, preset: Preset, run: Run) -> "ClipStore":
        """Read all shards of a run onto its device; `ValueError` if stage `data` has not finished."""
        latents, ids = _shards(preset, run).read("latents", "ids", device=run.device)
        return cls(latents, ids)

    def draw(
        self, batch: int, *, frames: int, generator: torch.Generator, device: torch.device
    ) -> tuple[Tensor, Tensor]:
        """Draw clips, and for each one of its captions: half of the time the last, which leaves things out.

        Returns the clips' first `frames` latent frames, fp32 `[B, F, C, h, w]`, and ids int64 `[B, M]` or `[B]`.
        """
        here, drawn = self.latents.device, generator.device
        index = torch.randint(len(self.latents), (batch,), generator=generator, device=drawn).to(here)
        last = self.ids.shape[1] - 1
        phrasing = torch.randint(max(1, 2 * last), (batch,), generator=generator, device=drawn).clamp(max=last).to(here)
        latents = self.latents[index, :frames].to(device, torch.float32)
        return latents, self.ids[index, phrasing].long().to(device)


def held_out_prompts(preset: Preset, count: int) -> list[str]:
    """Return captions of scenes whose attribute combinations training never shows."""
    world = world_of(preset)
    scenes = [sample_scene(world, seed, split="held-out") for seed in range(count)]
    return [caption(scene, scene.seed, language=world.language) for scene in scenes]
