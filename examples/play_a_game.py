"""Steer the subject of a running stream as a player would: an action a chunk, as keys of a keyboard would give them."""

import torch

from causvid import Pipeline
from causvid.media import VideoWriter

pipeline = Pipeline.from_pretrained()
stream = pipeline.stream("a red swan over a lake", seed=2)  # without end
frames = [next(stream)]

for action in ("right", "right", "hop", "left", "left"):
    stream.prompt = pipeline.steered(stream.prompt, action)  # takes effect at the next chunk
    frames.append(next(stream))

video = torch.cat(frames)
with VideoWriter("game.mp4", fps=pipeline.fps, height=video.shape[1], width=video.shape[2]) as file:
    file.write(video)
