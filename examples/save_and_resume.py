"""Save a stream to disk and resume it in another process: each run of this script continues the video.

The frames are bit for bit those of one unbroken stream.
"""

from itertools import islice
from pathlib import Path

from causvid import Pipeline
from causvid.media import VideoWriter

SESSION = Path("endless-swan.session")

pipeline = Pipeline.from_pretrained()
if SESSION.exists():
    stream = pipeline.resume(SESSION)
else:
    stream = pipeline.stream("a red swan moving to the right over a lake", seed=2)

name = f"swan-{stream.frames:05d}.mp4"  # the number of its first frame
with VideoWriter(name, fps=pipeline.fps, height=pipeline.generation.height, width=pipeline.generation.width) as video:
    for frames in islice(stream, 3):
        video.write(frames)
stream.save(SESSION)
print(f"{name}: {video.frames} frames")
