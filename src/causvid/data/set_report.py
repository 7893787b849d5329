"""What a person reads of a prepared set: counts, what was left out and why, and a contact sheet."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from causvid.data.plan import Item, LeftOut, count_reasons
from causvid.data.tar import Array, read_index
from causvid.data.video_set import ShardFacts
from causvid.files.writing import new_file
from causvid.media import contact_sheet

THUMBNAIL = (96, 192)
"""Most rows and columns of a thumbnail."""
SHOWN = 60
"""Clips on the contact sheet."""


def thumbnail(frames: Array) -> bytes:
    """Return the middle frame of a clip, uint8 `[T, H, W, 3]`, as a small JPEG."""
    image = Image.fromarray(np.asarray(frames[len(frames) // 2], dtype=np.uint8))
    image.thumbnail(THUMBNAIL[::-1])
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def write_report(out: Path, shards: Sequence[ShardFacts], items: Sequence[Item], left_out: Sequence[LeftOut]) -> None:
    """Write report.md with counts, left_out.csv with every reason, and contact_sheet.png of clips across the set."""
    every = max(1, -(-len(items) // SHOWN))
    stills, captions = [], []
    for shard in shards:
        for key, members in read_index(out / shard.file).items():
            if "jpg" in members and int(key) % every == 0:
                image = Image.open(io.BytesIO(members["jpg"].read())).convert("RGB")
                canvas = Image.new("RGB", THUMBNAIL[::-1], "white")
                canvas.paste(image, ((canvas.width - image.width) // 2, (canvas.height - image.height) // 2))
                stills.append(np.asarray(canvas)[None])
                captions.append(members["txt"].read().decode())
    if stills:
        with new_file(out / "contact_sheet.png") as place:
            contact_sheet(stills, captions, columns=6, stills=1).save(place, "PNG")
    lines = [f"# {out.absolute().name}", "", f"{len(items)} clips of {len({item.source for item in items})} sources."]
    sizes = sorted({item.size for item in items if item.kind == "video"})
    lines += ["", *(f"- {w} × {h}: {sum(i.size == (h, w) for i in items)} clips" for h, w in sizes)]
    lines += ["", "| left out because | pieces |", "|---|---|"]
    lines += [f"| {reason} | {count} |" for reason, count in count_reasons(left_out).items()]
    lines += ["", "![clips](contact_sheet.png)"] if stills else []
    with new_file(out / "report.md") as place:
        place.write_text("\n".join(lines) + "\n", encoding="utf-8")
    with (
        new_file(out / "left_out.csv") as place,  # names of files may hold bytes that are not UTF-8
        place.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file,
    ):
        table = csv.writer(file)
        table.writerow(["source", "start", "reason", "detail"])
        table.writerows([str(one.source), one.start, one.reason, one.detail] for one in left_out)
