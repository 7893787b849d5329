"""`causvid decode`: latents of a run become a video again, by this autoencoder or another."""

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from causvid.cli.options import DeviceOption, Options, find_device, flat
from causvid.cli.output import OutputOption, ScaleOption, write_video
from causvid.loading.spec import ModelSpec
from causvid.media import check_target

CHUNK = 3
"""Latent frames decoded at a time."""
OTHER_PARTS = ("student", "lora", "lora_strength", "preset", "text_encoder", "teacher")
"""Of a model, what decoding does not need."""


@flat
def decode(
    latents: Annotated[Path, typer.Argument(help="What --latents of another command wrote.")],
    output: OutputOption,
    parts: Annotated[dict[str, Any], Options(ModelSpec, without=OTHER_PARTS)],
    scale: ScaleOption = None,
    device: DeviceOption = None,
) -> None:
    """Decode the latents of a run into a video; of the model, only the autoencoder is read."""
    check_target(output)
    from causvid.engine.latents import decode_latents, load_latents
    from causvid.loading.assemble import load_autoencoder

    loaded, fps = load_latents(latents)
    place = find_device(device)
    autoencoder = load_autoencoder(ModelSpec.make(**parts), device=place)
    began = time.perf_counter()
    frames = decode_latents(autoencoder, loaded, chunk=CHUNK, device=place)
    written = write_video(frames, output, fps=fps, scale=scale, began=began)
    if written.stopped:
        raise KeyboardInterrupt
    print(written.line(output, fps))
