"""Measure the autoencoder of a run on held-out renders, show it, and write what a later run starts from.

    python benchmarks/autoencoder.py runs/storybook --preset storybook --output training/storybook
    causvid train autoencoder --preset storybook --start-autoencoder training/storybook/vae --out runs/another

The weights are the average that training keeps, in half precision.
"""

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path

import torch

from causvid.data.renders import world_of
from causvid.engine.memory import describe_machine
from causvid.evaluate.roundtrip import measure_round_trip
from causvid.loading.assemble import load_autoencoder
from causvid.loading.autoencoders import write_autoencoder
from causvid.loading.spec import ModelSpec
from causvid.media import contact_sheet, to_bytes
from causvid.models.tiny_autoencoder import TinyAutoencoder
from causvid.preset import Preset, load_preset
from causvid.train.checkpoint import CHECKPOINT, METRICS
from causvid.worlds.storybook import Scene, render, sample_scene

FRAMES = 13
REPEATS = 40
SEED = 900_000


def main() -> None:
    """Measure, print and write what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a run's folder, or that of an autoencoder")
    parser.add_argument("--preset", default="storybook", help="a preset's name or .toml file")
    parser.add_argument("--clips", type=int, default=96, help="held-out renders")
    parser.add_argument("--threads", type=int, default=2, help="of the timed decoder")
    parser.add_argument("--output", type=Path, help="a folder for weights, report and picture")
    options = parser.parse_args()
    preset = load_preset(options.preset)
    autoencoder, history = load(options.run, preset)
    scenes = [sample_scene(world_of(preset), SEED + number, split="held-out") for number in range(options.clips)]
    clips = torch.cat([renders(preset, scenes[i : i + 16]) for i in range(0, len(scenes), 16)])
    torch.set_num_threads(options.threads)
    found = {
        **history,
        "clips": options.clips,
        **{name: value for name, value in asdict(measure_round_trip(autoencoder, clips)).items()},
        "parameters": sum(p.numel() for p in autoencoder.parameters()),
        "decode_ms_per_chunk": round(1000 * decoding_seconds(autoencoder, clips[:1]), 1),
        "threads": options.threads,
        "machine": describe_machine(),
    }
    print(json.dumps(found, indent=2))
    if options.output is None:
        return
    options.output.mkdir(parents=True, exist_ok=True)
    write_autoencoder(options.output / "vae", autoencoder, dtype=torch.float16)
    (options.output / "autoencoder.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    picture(autoencoder, clips[:6], options.output / "autoencoder.png")


def load(run: Path, preset: Preset) -> tuple[TinyAutoencoder, dict[str, object]]:
    """Return the average of a run's weights, or those of an autoencoder's folder, and what training took."""
    if (run / "config.json").is_file():
        stored = load_autoencoder(ModelSpec(tiny_autoencoder=str(run), dtype="fp32"))
        assert isinstance(stored, TinyAutoencoder), "it is read as one"
        return stored, {}
    autoencoder, folder = TinyAutoencoder(preset.autoencoder_sizes), run / "autoencoder"
    saved = torch.load(folder / CHECKPOINT, map_location="cpu", weights_only=True)
    autoencoder.load_state_dict(saved["state"]["model average"]["weights"])
    rows = [json.loads(line) for line in (folder / METRICS).read_text(encoding="utf-8").splitlines()]
    history = {
        "command": f"causvid train autoencoder --preset {preset.name} --out runs/{preset.name}",
        "steps": saved["step"],
        "minutes": round(saved["seconds"] / 60, 1),
        "settings": saved["started_with"],
        "curve": [{key: row[key] for key in ("step", "loss", "psnr")} for row in rows[:: max(1, len(rows) // 40)]],
    }
    return autoencoder.eval(), history


def renders(preset: Preset, scenes: list[Scene]) -> torch.Tensor:
    """Render scenes at the preset's size, `[B, 13, 3, H, W]`."""
    g = preset.generation
    return render(scenes, frames=FRAMES, height=g.height, width=g.width, fps=g.fps, device=torch.device("cpu"))


@torch.inference_mode()
def decoding_seconds(autoencoder: TinyAutoencoder, clip: torch.Tensor) -> float:
    """Return the least time to decode a chunk of three latent frames of a stream: other work only ever adds to it."""
    autoencoder = autoencoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    latent = autoencoder.encode(clip)
    _, state = autoencoder.decode_chunk(latent[:, :1], None)
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        autoencoder.decode_chunk(latent[:, 1:4], state)
        times.append(time.perf_counter() - start)
    return min(times)


@torch.inference_mode()
def picture(autoencoder: TinyAutoencoder, clips: torch.Tensor, path: Path) -> None:
    """Write clips, each beside what is left of it."""
    both = torch.stack((clips, autoencoder.decode(autoencoder.encode(clips))), dim=1).flatten(0, 1)
    stills = list(to_bytes(both).numpy())
    contact_sheet(stills, ["render", "decoded"] * len(clips), columns=2, stills=2, scale=1).save(path)


if __name__ == "__main__":
    main()
