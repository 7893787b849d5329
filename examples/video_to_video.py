"""Translate a video: every chunk starts from the source, with as much noise as `strength` says."""

import torch

from causvid import Pipeline
from causvid.media import VideoWriter

pipeline = Pipeline.from_pretrained()
day = torch.cat(list(pipeline.stream("a red swan moving to the right over a lake", seconds=3, seed=2)))

# A file or `webcam` is a source too; frames are taken at the model's own rate.
translated = pipeline.stream("a violet swan over a lake at night", source=list(day.numpy()), strength=0.7)
night = torch.cat(list(translated))

both = torch.cat([day[: len(night)], night], dim=2)  # [T, H, 2 W, 3]: before and after
with VideoWriter("night.mp4", fps=pipeline.fps, height=both.shape[1], width=both.shape[2]) as video:
    video.write(both)
