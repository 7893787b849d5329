"""`causvid decode`: latents of a run become a video again, by this autoencoder or another."""

import time
from pathlib import Path
from typing import Annotated

import typer

from causvid.cli.film import OutputOption, ScaleOption, write_video
from causvid.cli.options import DeviceOption, DtypeOption, ModelOption, TinyOption, find_device
from causvid.media import check_target

CHUNK = 3
"""Latent frames decoded at a time."""


def decode(
    latents: Annotated[Path, typer.Argument(help="What --latents of another command wrote.")],
    output: OutputOption,
    model: ModelOption = None,
    tiny_autoencoder: TinyOption = None,
    dtype: DtypeOption = None,
    scale: ScaleOption = None,
    device: DeviceOption = None,
) -> None:
    """Decode the latents of a run into a video; of the model, only the autoencoder is read."""
    check_target(output)
    from causvid.engine.latents import decode_latents, load_latents
    from causvid.loading.assemble import load_autoencoder
    from causvid.loading.spec import ModelSpec

    loaded, fps = load_latents(latents)
    place = find_device(device)
    autoencoder = load_autoencoder(ModelSpec(model=model, tiny_autoencoder=tiny_autoencoder, dtype=dtype), device=place)
    began = time.perf_counter()
    frames = decode_latents(autoencoder, loaded, chunk=CHUNK, device=place)
    written = write_video(frames, output, fps=fps, scale=scale, began=began)
    if written.stopped:
        raise KeyboardInterrupt
    print(written.line(output, fps))
