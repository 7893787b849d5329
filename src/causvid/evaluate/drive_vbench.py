"""Run dimensions of the vbench package: a script for the interpreter that has it, which need not have this package.

    python drive_vbench.py REQUEST.json

vbench 0.1.5 pins libraries that this package does not run with, so it lives in an environment of its own. Each
dimension is run by itself: one that fails takes no other with it. What vbench prints goes to stderr; stdout gets one
line of JSON for each dimension, {"dimension", "score", "videos": {file: score}} or {"dimension", "error"}.
"""

import contextlib
import importlib
import json
import sys
from pathlib import Path
from typing import Any

CUSTOM = "custom_input"
STANDARD = "vbench_standard"


def main() -> None:
    """Read {"videos", "output", "device", "prompts", "dimensions"} and run each dimension."""
    sys.path.pop(0)  # the folder of this script, where another module is named vbench
    request = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    with contextlib.redirect_stdout(sys.stderr):
        vbench = importlib.import_module("vbench")
        full = Path(str(vbench.__file__)).parent / "VBench_full_info.json"
        listed = json.loads(full.read_text(encoding="utf-8"))
        judge = vbench.VBench(request["device"], str(full), request["output"])
    names = {Path(name).stem for name in request["prompts"]}
    for dimension in request["dimensions"]:
        of_list = [item["prompt_en"] for item in listed if dimension in item["dimension"]]
        standard = any(f"{prompt}-{take}" in names for prompt in of_list for take in range(5))
        result: dict[str, Any]
        try:
            with contextlib.redirect_stdout(sys.stderr):
                result = evaluate(judge, dimension, request, standard=standard)
        except (Exception, SystemExit) as error:
            text = " ".join(str(error).split()) or type(error).__name__
            result = {"error": text[:300]}
        print(json.dumps({"dimension": dimension} | result), flush=True)


def evaluate(judge: Any, dimension: str, request: dict[str, Any], *, standard: bool) -> dict[str, Any]:
    """Run one dimension and read the file that vbench writes: [mean, [{"video_path", "video_results"}, …]]."""
    judge.evaluate(
        videos_path=request["videos"],
        name=dimension,
        prompt_list=[] if standard else request["prompts"],
        dimension_list=[dimension],
        local=True,
        mode=STANDARD if standard else CUSTOM,
    )
    written = Path(request["output"]) / f"{dimension}_eval_results.json"
    found = json.loads(written.read_text(encoding="utf-8"))[dimension]
    whole = 100 if dimension == "imaging_quality" else 1  # whose videos vbench scores in percent, and their mean not
    videos = {Path(row["video_path"]).name: float(row["video_results"]) / whole for row in found[1]}
    return {"score": float(found[0]), "videos": videos}


if __name__ == "__main__":
    main()
