"""All that wants a CUDA GPU, in one call: tests marked `gpu`, speed of the engines, the real run, a bundle, TensorRT.
Needs no network.

    python benchmarks/gpu/run.py --source-dir FOLDER_WITH_MULTI30K
    python benchmarks/gpu/run.py --reduced        # the same code on a CPU, in a minute; its numbers mean nothing

Writes OUTPUT/gpu.json and OUTPUT/gpu.md after every section. Each section has its own time limit, and one that fails
stops no other. What could not run is named with its reason. README.md says what the machine must have.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))

from bundle_section import run_bundle
from common import machine
from multi30k_section import run_multi30k
from processes import ROOT, CouldNotRunError, Section, run_python
from report import markdown
from tests_section import run_tests

PROBE = """
import importlib.metadata as metadata, json, torch
cuda = torch.cuda.is_available()
gpu = torch.cuda.get_device_properties(0) if cuda else None
names = {d.metadata["Name"]: d.version for d in metadata.distributions() if d.metadata["Name"]}
print(json.dumps({
    "installed": "t2tdeploy" in names,
    "cuda": cuda,
    "gpu": gpu.name if cuda else None,
    "gpu_memory_gib": round(gpu.total_memory / 2**30) if cuda else None,
    "cuda_version": torch.version.cuda,
    "packages": {n: v for n, v in sorted(names.items()) if n in ("torch", "triton", "onnx", "onnxscript")
                 or n.startswith(("onnxruntime", "tensorrt"))},
}))
"""
MULTI30K_RUNS = (("ort", "bfloat16"), ("torch", "bfloat16"), ("ort", "float32"))


@dataclass(frozen=True)
class Options:
    """The command line; see its help."""

    reduced: bool
    output: Path
    source_dir: Path | None
    data_dir: Path | None
    sections: list[str]
    sizes: list[str]
    precisions: list[str]
    engines: list[str]
    bundle: Path | None
    minutes: float


def options() -> Options:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reduced", action="store_true", help="tiny sizes on the CPU")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--source-dir", type=Path, help="raw files of Multi30k, as published")
    parser.add_argument("--data-dir", type=Path, help="what `t2tdeploy datagen` made of them")
    parser.add_argument(
        "--sections", default="tests,engines,multi30k,bundle,tensorrt", help="which; those of earlier calls stay"
    )
    parser.add_argument("--sizes", default="base,big", help="for the engines")
    parser.add_argument("--precisions", default="bfloat16,float32", help="for the engines")
    parser.add_argument("--engines", default="ort,torch,compile", help="which; rows of others stay")
    parser.add_argument("--bundle", type=Path, help="of Multi30k, with variants for this GPU, as optimize wrote it")
    parser.add_argument("--minutes", type=float, default=30.0, help="time limit of a section")
    given = vars(parser.parse_args())
    if given["reduced"]:
        given.update(sizes="tiny")
    lists = {name: given[name].split(",") for name in ("sections", "sizes", "precisions", "engines")}
    return Options(**{**given, **lists})


def run_engines(section: Section, **arguments: Any) -> None:
    """See engine_section.py, whose imports may fail where parts of the environment are missing."""
    import engine_section

    engine_section.run_engines(section, **arguments)


def run_tensorrt(section: Section, folder: Path) -> None:
    """See tensorrt_section.py, of which the same is true."""
    import tensorrt_section

    tensorrt_section.run_tensorrt(section, folder)


def planned(chosen: Options, folder: Path, earlier: dict[str, Any]) -> dict[str, Callable[[Section], None]]:
    """Section title -> what runs it. `earlier`: sections of other calls in this environment, of which rows may stay."""
    plan: dict[str, Callable[[Section], None]] = {}
    if "tests" in chosen.sections:
        plan["tests marked gpu"] = run_tests
    if "engines" in chosen.sections:
        for size in chosen.sizes:
            title = f"engines, {size}"
            asked = {"precisions": chosen.precisions, "engines": chosen.engines}
            rows = earlier.get(title, {}).get("rows", [])
            plan[title] = partial(run_engines, size=size, **asked, earlier=rows, folder=folder)
    if "multi30k" in chosen.sections:
        for engine, precision in (("ort", "float32"),) if chosen.reduced else MULTI30K_RUNS:
            plan[f"Multi30k, {engine}, {precision}"] = partial(
                run_multi30k,
                engine=engine,
                precision=precision,
                folder=folder,
                source_dir=chosen.source_dir,
                data_dir=chosen.data_dir,
            )
    if "bundle" in chosen.sections and not chosen.reduced:
        plan["bundle"] = partial(run_bundle, bundle=chosen.bundle, source_dir=chosen.source_dir)
    if "tensorrt" in chosen.sections:
        plan["TensorRT"] = partial(run_tensorrt, folder=folder)
    return plan


def environment(variables: dict[str, str]) -> dict[str, Any]:
    """The machine and the versions that matter; what is missing is named."""
    try:
        return {**machine(), **json.loads(run_python(["-c", PROBE], variables=variables, seconds=300))}
    except CouldNotRunError as error:
        return {**machine(), "installed": True, "cuda": False, "torch": f"torch does not work: {error}"}


def run_section(
    section: Section, run: Callable[[Section], None], found: dict[str, Any], reduced: bool
) -> dict[str, Any]:
    """Runs it, whatever happens; returns its record."""
    reason = None
    begun = time.monotonic()
    try:
        if not reduced and not found["cuda"]:
            raise CouldNotRunError(found.get("torch", "torch sees no CUDA GPU"))
        if not found["installed"]:
            raise CouldNotRunError("t2tdeploy is not installed: pip install --no-deps --no-build-isolation -e .")
        run(section)
    except CouldNotRunError as error:
        reason = str(error)
    except Exception as error:  # whatever it is, the other sections shall run
        reason = f"{type(error).__name__}: {error}"
    return {"could_not_run": reason, "minutes": round((time.monotonic() - begun) / 60, 2), "rows": section.rows}


def earlier(path: Path, reduced: bool) -> dict[str, Any]:
    """Sections that other calls of the same kind wrote, each with the machine and the day it is of."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    sections: dict[str, Any] = content["sections"] if content["reduced"] == reduced else {}
    return sections


def main() -> None:
    chosen = options()
    chosen.output.mkdir(parents=True, exist_ok=True)
    path = chosen.output / "gpu.json"
    with tempfile.TemporaryDirectory() as folder:
        variables = {
            "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
            "T2TDEPLOY_CACHE": os.environ.get("T2TDEPLOY_CACHE", f"{folder}/cache"),
            "TORCHINDUCTOR_CACHE_DIR": f"{folder}/inductor",
        }
        if chosen.reduced:  # no GPU, and nothing is compiled: that alone takes longer than all the rest
            variables |= {"CUDA_VISIBLE_DEVICES": "", "TORCHDYNAMO_DISABLE": "1"}
        found = environment(variables)
        sections = earlier(path, chosen.reduced)
        alike = {title: one for title, one in sections.items() if one["environment"] == found}
        for title, run in planned(chosen, Path(folder), alike).items():
            print(f"{title} …", file=sys.stderr, flush=True)
            section = Section(variables, time.monotonic() + 60 * chosen.minutes, reduced=chosen.reduced)
            record = run_section(section, run, found, chosen.reduced)
            date = datetime.datetime.now(datetime.UTC).date().isoformat()
            sections[title] = {"date": date, "environment": found, **record}
            content = {"reduced": chosen.reduced, "sections": sections}
            path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
            (chosen.output / "gpu.md").write_text(markdown(content), encoding="utf-8")
    print((chosen.output / "gpu.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
