"""Stream a video to a file: every chunk is written as soon as it is made."""

from causvid import Pipeline
from causvid.media import VideoWriter

pipeline = Pipeline.from_pretrained()  # the built-in model; give a path or a name on the Hub for another
size = {"height": pipeline.generation.height, "width": pipeline.generation.width}

with VideoWriter("swan.mp4", fps=pipeline.fps, **size) as video:
    for frames in pipeline.stream("a red swan moving to the right over a lake", seconds=4, seed=2):
        video.write(frames)  # uint8 [T, H, W, 3]
        print(f"{video.frames / pipeline.fps:.1f} s")
