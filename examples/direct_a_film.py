"""Direct a film: shots and the times they begin, which a file can hold as well (`causvid play film.toml`)."""

from causvid import Pipeline, Shot, Timeline
from causvid.media import VideoWriter

timeline = Timeline(
    seconds=6,
    seed=2,
    shots=(
        Shot(at=0, prompt="a red swan moving to the right over a lake"),
        Shot(at=2, prompt="a blue swan moving to the right over a lake", mode="blend", over=1.0),
        Shot(at=4, prompt="a blue swan moving to the right over a meadow", mode="cut"),
    ),
)
timeline.save("film.toml")

pipeline = Pipeline.from_pretrained()
size = {"height": pipeline.generation.height, "width": pipeline.generation.width}
with VideoWriter("film.mp4", fps=pipeline.fps, **size) as video:
    for frames in pipeline.play(timeline):
        video.write(frames)
