"""Make several videos as one batch, and look at them side by side."""

from causvid import Pipeline
from causvid.media import VideoWriter, contact_sheet

PROMPTS = [
    "a red swan moving to the right over a lake",
    "a white paper airplane over a night city",
    "a blue woolly mammoth walking to the left over a snowy tundra",
    "a green fish over a meadow",
]

pipeline = Pipeline.from_pretrained()
videos = pipeline.generate_batch(PROMPTS, seeds=range(4), seconds=2)  # uint8 [4, T, H, W, 3]

contact_sheet(list(videos.numpy()), PROMPTS, columns=2, stills=4).save("batch.png")
for number, frames in enumerate(videos):
    with VideoWriter(f"{number}.mp4", fps=pipeline.fps, height=frames.shape[1], width=frames.shape[2]) as video:
        video.write(frames)
