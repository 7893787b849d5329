"""The unchanged `openai` package against a server of the built-in model."""

import io
import json
import signal
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import av
import httpx
import numpy as np
import openai
import pytest
from openai.types import Video
from PIL import Image
from tests.server.conftest import Serve, Served, model_busy, start_process

from causvid.pipeline import Pipeline

FISH = "a red fish over a lake"


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # OpenAI's own service ends; its package does not
        yield


@pytest.fixture
def start(serve: Serve) -> Iterator[Callable[..., Served]]:
    """Return what starts a server with some settings; all are stopped at the end."""
    with ExitStack() as stack:
        yield lambda **settings: stack.enter_context(serve(**settings))


def connect(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0)


@pytest.fixture(scope="module")
def client(server: Served) -> openai.OpenAI:
    return connect(server.url)


@pytest.fixture(scope="module")
def fish(client: openai.OpenAI) -> Video:
    """A finished video of a second."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return client.videos.create_and_poll(prompt=FISH, seconds="1", extra_body={"seed": 3})


def finish(client: openai.OpenAI, video: Video) -> Video:
    ended = client.videos.poll(video.id, poll_interval_ms=50)
    assert ended.status == "completed", ended.error
    assert ended.progress == 100
    return ended


def until_in_progress(client: openai.OpenAI, video: Video) -> None:
    while client.videos.retrieve(video.id).progress == 0:
        time.sleep(0.02)


def decode(content: bytes) -> np.ndarray[Any, Any]:
    with av.open(io.BytesIO(content)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def download(client: openai.OpenAI, video: Video) -> np.ndarray[Any, Any]:
    return decode(client.videos.download_content(video.id).content)


def png(colour: str, size: tuple[int, int] = (96, 64)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, "PNG")
    return file.getvalue()


def native(built_in: Pipeline) -> tuple[int, int]:
    """Return the model's own height and width."""
    return built_in.generation.height, built_in.generation.width


def difference(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> float:
    return float(np.abs(a.astype(int) - b.astype(int)).mean())


def test_a_video_is_what_the_pipeline_makes(client: openai.OpenAI, fish: Video, built_in: Pipeline) -> None:
    height, width = native(built_in)
    assert (fish.status, fish.size, fish.seconds, fish.model) == ("completed", f"{width}x{height}", "1", "nano")
    frames = download(client, fish)
    made = np.concatenate([part.numpy() for part in built_in.stream(FISH, seconds=1.0, seed=3)])
    assert frames.shape == made.shape == (12, height, width, 3)
    assert difference(frames, made) < 4


def test_a_file_says_how_it_was_made(client: openai.OpenAI, fish: Video) -> None:
    with av.open(io.BytesIO(client.videos.download_content(fish.id).content)) as container:
        said = json.loads(container.metadata["comment"])
        assert container.metadata["title"] == FISH
    assert (said["prompt"], said["seed"], said["model"]) == (FISH, 3, "nano")
    assert "causvid" in said


@pytest.mark.parametrize("way", ["file", "data", "upload"])
def test_a_picture_is_the_first_frame(client: openai.OpenAI, server: Served, built_in: Pipeline, way: str) -> None:
    picture = png("teal", (200, 100))
    given: dict[str, Any] = {"input_reference": ("a.png", picture, "image/png")}
    if way == "data":
        import base64

        url = f"data:image/png;base64,{base64.b64encode(picture).decode()}"
        given = {"extra_body": {"input_reference": {"image_url": url}}}
    elif way == "upload":
        sent = httpx.post(f"{server.url}/v1/files", files={"file": picture}).json()
        assert (sent["kind"], sent["width"], sent["height"], sent["bytes"]) == ("image", 200, 100, len(picture))
        given = {"extra_body": {"input_reference": {"file_id": sent["id"]}}}
    video = finish(client, client.videos.create(prompt=FISH, seconds="1", **given))
    frames = download(client, video)
    assert difference(frames[0], np.full((*native(built_in), 3), (0, 128, 128))) < 12


def test_a_video_is_asked_for_by_json(client: openai.OpenAI, server: Served, built_in: Pipeline) -> None:
    height, width = (side - 32 for side in native(built_in))
    body = {"prompt": FISH, "seconds": 0.5, "size": f"{width}x{height}", "steps": 2, "sigmas": None}
    made = httpx.post(f"{server.url}/v1/videos", json=body).json()
    frames = download(client, finish(client, client.videos.retrieve(made["id"])))
    assert frames.shape == (6, height, width, 3)


def test_a_remix_resembles_its_source_more_than_another(client: openai.OpenAI, fish: Video) -> None:
    remix = client.videos.remix(fish.id, prompt="a green fish over a lake", extra_body={"strength": 0.5})
    assert remix.remixed_from_video_id == fish.id
    source, frames = download(client, fish), download(client, finish(client, remix))
    other = download(client, finish(client, client.videos.create(prompt="a dog in a desert", seconds="1")))
    assert frames.shape == source.shape
    assert difference(frames, source) < difference(frames, other)


def test_an_edit_takes_a_file_or_a_video(client: openai.OpenAI, fish: Video) -> None:
    content = client.videos.download_content(fish.id).content
    by_file = client.videos.edit(prompt="a green fish", video=("a.mp4", content))
    named: Any = {"extra_body": {"video": {"id": fish.id}}, "video": openai.omit}
    by_name = client.videos.edit(prompt="a green fish", **named)
    a, b = (download(client, finish(client, video)) for video in (by_file, by_name))
    assert len(a) == 12
    assert difference(a, b) < 2


def test_an_extension_holds_its_source_and_what_follows(
    client: openai.OpenAI, fish: Video, built_in: Pipeline, tmp_path: Path
) -> None:
    named: Any = {"extra_body": {"video": {"id": fish.id}}, "video": openai.omit}
    longer = client.videos.extend(prompt="a blue fish over a lake", seconds="2", **named)
    assert longer.seconds == "3"  # type: ignore[comparison-overlap]
    frames, source = download(client, finish(client, longer)), download(client, fish)
    assert len(frames) == 36
    assert difference(frames[:12], source) < 3
    (tmp_path / "fish.mp4").write_bytes(client.videos.download_content(fish.id).content)
    follows = built_in.stream("a blue fish over a lake", seconds=2.0, after=tmp_path / "fish.mp4")
    assert difference(frames[12:], np.concatenate([part.numpy() for part in follows])) < 4


def test_previews_are_pictures_of_the_video(client: openai.OpenAI, fish: Video, built_in: Pipeline) -> None:
    height, width = native(built_in)
    frames = download(client, fish)
    for variant, form, size in (
        ("thumbnail", "WEBP", (width, height)),
        ("spritesheet", "JPEG", (4 * width, 3 * height)),
    ):
        for _ in range(2):
            content = client.videos.download_content(fish.id, variant=variant).content  # type: ignore[arg-type]
            image = Image.open(io.BytesIO(content))
            assert (image.format, image.size) == (form, size)
        first = np.asarray(image)[:height, :width]
        assert difference(first, frames[6 if variant == "thumbnail" else 0]) < 8


def test_a_range_of_a_video_is_sent(client: openai.OpenAI, server: Served, fish: Video) -> None:
    whole = client.videos.download_content(fish.id).content
    answer = httpx.get(f"{server.url}/v1/videos/{fish.id}/content", headers={"Range": "bytes=10-19"})
    assert (answer.status_code, answer.content) == (206, whole[10:20])


def test_lists_are_paged_in_both_orders(start: Callable[..., Served]) -> None:
    client = connect(start().url)
    assert client.videos.list().data == []
    made = [client.videos.create(prompt=FISH, seconds="1").id for _ in range(5)]
    assert [video.id for video in client.videos.list(limit=2)] == made[::-1]
    assert [video.id for video in client.videos.list(limit=2, order="asc")] == made
    page = client.videos.list(limit=3, after=made[4])
    assert ([video.id for video in page.data], page.has_more) == (made[3:0:-1], True)


def test_a_deleted_video_is_gone_with_its_files(client: openai.OpenAI, server: Served) -> None:
    video = finish(client, client.videos.create(prompt=FISH, seconds="0.5"))  # type: ignore[arg-type]
    client.videos.download_content(video.id, variant="thumbnail")
    assert client.videos.delete(video.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.videos.retrieve(video.id)
    with pytest.raises(openai.NotFoundError):
        client.videos.download_content(video.id)
    assert not list(server.batch.jobs.folder.glob(f"*{video.id}*"))


def test_deleting_a_video_in_progress_stops_it(start: Callable[..., Served]) -> None:
    server = start(jobs=1)
    client = connect(server.url)
    video = client.videos.create(prompt=FISH, seconds="60")  # type: ignore[arg-type]
    until_in_progress(client, video)
    assert client.videos.delete(video.id).deleted
    finish(client, client.videos.create(prompt=FISH, seconds="1"))
    assert len(list(server.batch.jobs.folder.iterdir())) == 1
    assert server.batch.jobs.running == 0


def test_a_source_may_be_deleted_while_its_job_waits(start: Callable[..., Served]) -> None:
    server = start(jobs=1)
    client = connect(server.url)
    video = finish(client, client.videos.create(prompt=FISH, seconds="1"))
    with model_busy(server):
        first = client.videos.create(prompt=FISH, seconds="4")
        remix = client.videos.remix(video.id, prompt="a green fish over a lake")
        assert client.videos.retrieve(remix.id).status == "queued"
        client.videos.delete(video.id)
    finish(client, remix)
    finish(client, first)
    assert {file.suffix for file in server.batch.jobs.folder.iterdir()} == {".mp4"}


def test_an_unfinished_video_has_no_content(start: Callable[..., Served]) -> None:
    client = connect(start(jobs=1).url)
    video = client.videos.create(prompt=FISH, seconds="60")  # type: ignore[arg-type]
    with pytest.raises(openai.ConflictError):
        client.videos.download_content(video.id)
    with pytest.raises(openai.ConflictError):
        client.videos.remix(video.id, prompt=FISH)
    client.videos.delete(video.id)


def test_more_jobs_than_may_wait_are_refused(start: Callable[..., Served]) -> None:
    server = start(jobs=1, jobs_waiting=1)
    client = connect(server.url)
    videos = [client.videos.create(prompt=FISH, seconds="30")]  # type: ignore[arg-type]
    until_in_progress(client, videos[0])
    with model_busy(server):
        videos.append(client.videos.create(prompt=FISH, seconds="1"))
        with pytest.raises(openai.RateLimitError) as refused:
            client.videos.create(prompt=FISH, seconds="1")
    assert 1 <= int(refused.value.response.headers["retry-after"]) <= 600
    for video in videos:
        client.videos.delete(video.id)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": ""}, "prompt"),
        ({"prompt": "a" * 2001}, "prompt"),
        ({"prompt": "\ud800"}, "prompt"),
        ({}, "prompt"),
        ({"seconds": "61"}, "seconds"),
        ({"seconds": "soon"}, "seconds"),
        ({"seconds": True}, "seconds"),
        ({"size": "97x64"}, "width"),
        ({"size": "large"}, "size"),
        ({"size": "96x64", "width": 96}, "size"),
        ({"seed": -1}, "seed"),
        ({"steps": 0}, "steps"),
        ({"fit": "cover"}, "fit"),
        ({"strength": 0.5}, "strength"),
        ({"after": "x"}, "after"),
        ({"input_reference": "x"}, "input_reference"),
        ({"input_reference": {"image_url": "http://127.0.0.1/"}}, "input_reference.image_url"),
        ({"input_reference": {"image_url": "data:image/png;base64,AAAA"}}, "input_reference.image_url"),
        ({"input_reference": {"file_id": "../jobs"}}, "input_reference.file_id"),
        ({"\ud800": 1}, None),
    ],
    ids=str,
)
def test_a_refusal_names_the_field(server: Served, fields: dict[str, Any], param: str | None) -> None:
    body = json.dumps(fields if "prompt" in fields or param == "prompt" else {"prompt": FISH, **fields})
    answer = httpx.post(f"{server.url}/v1/videos", content=body, headers={"content-type": "application/json"})
    error = answer.json()["error"]
    assert answer.status_code == 400
    assert error["param"] == param
    assert error["type"] == "invalid_request_error"
    assert "\n" not in error["message"]


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"[" * 100_000, b"\xff", b'{"prompt": 1e999}'])
def test_a_body_that_is_no_request_is_refused(client: openai.OpenAI, server: Served, body: bytes) -> None:
    for kind in ("application/json", "multipart/form-data", "multipart/form-data; boundary=a"):
        for route in ("videos", "videos/edits", "files"):
            answer = httpx.post(f"{server.url}/v1/{route}", content=body, headers={"content-type": kind})
            assert answer.status_code == 400
            assert answer.json()["error"]["message"]


def test_the_client_raises_its_own_errors(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="model=sora-2 is not served"):
        client.videos.create(prompt=FISH, model="sora-2")
    with pytest.raises(openai.NotFoundError, match="there is no video"):
        client.videos.retrieve("video_none")
    with pytest.raises(openai.BadRequestError, match="foo"):
        client.videos.create(prompt=FISH, extra_body={"foo": 1})
    with pytest.raises(openai.BadRequestError, match="input_reference: it is damaged or not a video"):
        client.videos.create(prompt=FISH, input_reference=b"neither")
    with pytest.raises(openai.NotFoundError):
        client.videos.list(after="video_none")
    assert client.models.list().data[0].id == "nano"


def test_uploads_are_limited_by_size_pixels_and_kind(start: Callable[..., Served]) -> None:
    url = start(upload_bytes=200_000, upload_pixels=200 * 200, upload_seconds=0.5).url
    client = connect(url)
    video = finish(client, client.videos.create(prompt=FISH, seconds="1"))
    content = client.videos.download_content(video.id).content

    def send(data: bytes, **options: Any) -> httpx.Response:
        return httpx.post(f"{url}/v1/files", files={"file": ("../../name", data)}, **options)

    assert send(png("red", (201, 200))).status_code == 400
    assert send(b"x" * 200_001).status_code == 413
    assert send(b"x" * 2_000_000).status_code == 413
    assert send(content).json()["error"]["message"].startswith("file: it has 1 seconds")
    assert send(b"").status_code == 400
    assert send(b"<svg xmlns='http://www.w3.org/2000/svg'/>").status_code == 400
    stored = send(png("red")).json()
    assert httpx.delete(f"{url}/v1/files/{stored['id']}").json()["deleted"]
    assert httpx.delete(f"{url}/v1/files/{stored['id']}").status_code == 404


def test_expired_videos_and_uploads_are_deleted(start: Callable[..., Served]) -> None:
    server = start(keep_seconds=0.01)
    client = connect(server.url)
    httpx.post(f"{server.url}/v1/files", files={"file": png("red")})
    video = finish(client, client.videos.create(prompt=FISH, seconds="1"))
    while server.batch.jobs.store.identifiers():
        server.batch.sweep()
        time.sleep(0.1)
    with pytest.raises(openai.NotFoundError):
        client.videos.retrieve(video.id)
    assert not list(server.batch.jobs.folder.iterdir())
    assert not list((server.batch.jobs.folder.parent / "uploads").iterdir())


def test_a_stopped_servers_jobs_are_made_by_the_next(serve: Serve, tmp_path: Path) -> None:
    with serve(tmp_path, jobs=1) as server:
        client = connect(server.url)
        videos = [client.videos.create(prompt=FISH, seconds="8"), client.videos.create(prompt=FISH, seconds="1")]
        until_in_progress(client, videos[0])
    with serve(tmp_path, jobs=1) as server:
        client = connect(server.url)
        assert [finish(client, video).id for video in videos] == [video.id for video in videos]


def test_killed_servers_jobs_run_again_to_the_same_video(tmp_path: Path, fish: Video, client: openai.OpenAI) -> None:
    folder = tmp_path / "kept"
    process, url = start_process(folder)
    other = connect(url)
    long = other.videos.create(prompt=FISH, seconds="8")
    short = other.videos.create(prompt=FISH, seconds="1", extra_body={"seed": 3})
    waits = other.videos.create(prompt=FISH, seconds="1", input_reference=("a.png", png("teal")))
    until_in_progress(other, long)
    process.send_signal(signal.SIGKILL)
    process.wait()
    (folder / "videos" / ".half.partial").mkdir(exist_ok=True)
    process, url = start_process(folder)
    other = connect(url)
    try:
        for video in (long, short, waits):
            finish(other, video)
        assert len(download(other, long)) == 96
        assert difference(download(other, short), download(client, fish)) < 2
        assert sorted(file.suffix for file in (folder / "videos").iterdir()) == [".mp4"] * 3
    finally:
        process.kill()
        process.wait()
