"""Start a video with an image: it becomes the first frame, and the prompt moves it."""

from PIL import Image, ImageDraw

from causvid import Pipeline
from causvid.media import VideoWriter

image = Image.new("RGB", (192, 128), (120, 180, 230))  # any picture of any size; here a sky over a lake
ImageDraw.Draw(image).rectangle((0, 64, 192, 128), fill=(50, 100, 160))
image.save("lake.png")

pipeline = Pipeline.from_pretrained()
size = {"height": pipeline.generation.height, "width": pipeline.generation.width}

with VideoWriter("lake.mp4", fps=pipeline.fps, **size) as video:
    for frames in pipeline.stream("a red swan over a lake", image="lake.png", fit="cover", seconds=3):
        video.write(frames)
