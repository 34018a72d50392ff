"""The GPU harness in its reduced form."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.integration.commands import ENVIRONMENT
from tests.policy.source import ROOT


def test_every_section_runs_or_says_why_not(tmp_path: Path) -> None:
    words = ["--reduced", "--sections", "tests,engines,multi30k", "--output", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "gpu" / "run.py", *words],
        env=ENVIRONMENT, cwd=tmp_path, capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    content = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))
    tests, engines, multi30k = content["sections"].values()
    assert "no test is marked gpu" in tests["could_not_run"] or "were skipped" in tests["could_not_run"]
    assert engines["could_not_run"] is multi30k["could_not_run"] is None
    kinds = {(row["engine"], row["precision"]) for row in engines["rows"]}
    assert kinds == {(name, kind) for name in ("ort", "torch", "compile") for kind in ("bfloat16", "float32")}
    for row in engines["rows"]:
        assert row.get("could_not_run") or row["ms_per_step"] > 0
    trained = {(row["engine"], row["precision"]) for row in engines["rows"] if "ms_per_step" in row}
    assert {("ort", "float32"), ("torch", "float32"), ("torch", "bfloat16")} <= trained
    assert multi30k["rows"][0]["steps"] == 4
    page = (tmp_path / "gpu.md").read_text(encoding="utf-8")
    assert page == done.stdout.removesuffix("\n")
    assert f"**Could not run: {tests['could_not_run']}**" in page


def test_without_a_gpu_nothing_is_invented(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "gpu" / "run.py", "--output", tmp_path],
        env={**ENVIRONMENT, "CUDA_VISIBLE_DEVICES": ""}, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    sections = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))["sections"]
    assert len(sections) == 8
    for section in sections.values():
        assert (section["could_not_run"], section["rows"]) == ("torch sees no CUDA GPU", [])


def test_tensorrt_is_built_and_compared_as_far_as_a_cpu_goes(tmp_path: Path) -> None:
    words = ["--reduced", "--sections", "tensorrt", "--output", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "gpu" / "run.py", *words],
        env=ENVIRONMENT, cwd=tmp_path, capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    section = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))["sections"]["TensorRT"]
    assert section["could_not_run"] is None
    (build,) = (row for row in section["rows"] if row["what"] == "build")
    assert build.get("engine_mib", 0) > 0 or "tensorrt" in build["could_not_run"]
    on_cpu = [row for row in section["rows"] if row.get("backend") == "ort-cpu-static"]
    assert [row["what"] for row in on_cpu] == ["parity", "one step more"]
    assert [row["largest_score_difference"] < 0.05 for row in on_cpu] == [True, True]
    on_gpu = [row for row in section["rows"] if row.get("backend") in ("tensorrt", "ctranslate2-cuda")]
    assert on_gpu
    assert all("CUDA GPU" in row["could_not_run"] for row in on_gpu)
