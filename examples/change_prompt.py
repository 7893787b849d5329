"""Change the prompt of a running stream, and fork it: two continuations of one history."""

from itertools import islice

import torch

from causvid import Pipeline
from causvid.media import VideoWriter

pipeline = Pipeline.from_pretrained()
stream = pipeline.stream("a red swan moving to the right over a lake", seed=2)  # without end
history = list(islice(stream, 3))

other = stream.fork()
stream.set_prompt("a blue swan moving to the right over a lake", "blend", chunks=2)
other.prompt = "a red swan moving to the right over a meadow"  # takes effect at the next chunk

for name, future in {"blue": stream, "meadow": other}.items():
    frames = torch.cat([*history, *islice(future, 4)])
    with VideoWriter(f"{name}.mp4", fps=pipeline.fps, height=frames.shape[1], width=frames.shape[2]) as video:
        video.write(frames)
