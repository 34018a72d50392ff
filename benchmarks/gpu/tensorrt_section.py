"""TensorRT: are engines right, is a step too many harmless, does the Loop end early, how fast are they beside others.

Rows have a `what`:

    build          an engine: seconds, size
    parity         hypotheses and scores beside those of the growing float32 graph on the CPU
    one step more  the same, of a graph whose Loop always runs to its trip count
    early end      milliseconds of a batch whose rows may have few tokens, and of the same with many
    speed          32 steps of every search, sources of 25 tokens, beam 4: target tokens per second

In the reduced form, the reference is the static float32 graph: exporting the growing one would take most of the time.
"""

from __future__ import annotations

import json
import statistics
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from ctranslate2_model import convert
from decode_backends import BEAM, EXTRA, NEVER_ENDS
from decode_models import SOURCE_LENGTH, TARGET_LENGTH, VOCABULARY, base_hparams
from decode_vs_ctranslate2 import Job
from processes import Section
from search_backends import LONGEST_SOURCE, STATIC_HYPOTHESES
from worker_process import WorkerError, WorkerProcess

from t2tdeploy.errors import T2TDeployError
from t2tdeploy.export.beam_search import export_beam_search
from t2tdeploy.export.half import halved
from t2tdeploy.export.placement import serialized
from t2tdeploy.export.static_search import export_static_search
from t2tdeploy.export.tensorrt import Profile, Span, build_engine
from t2tdeploy.features import EOS_ID, FeatureSpec, Modality
from t2tdeploy.models.static import StaticSearch
from t2tdeploy.models.transformer import Transformer
from t2tdeploy.runtime import available_cpus

WORKER = Path(__file__).parent / "search_worker.py"
ALPHA, SIZES, ROUNDS, SENTENCES = 0.6, (1, 16, 64), 5, 64
REDUCED_SIZES = {"hidden_size": 16, "filter_size": 16, "num_heads": 2, "num_encoder_layers": 1, "num_decoder_layers": 1}
REDUCED_VOCABULARY, REDUCED_SENTENCES = 100, 4
PRECISIONS = ("float32", "float16")
FEW, MANY = 4, 40  # tokens

SPEED = (
    ("tensorrt", "float32"), ("tensorrt", "float16"), ("ort-tensorrt", "float16"), ("ort-cuda", "float32"),
    ("ort-cuda", "float16"), ("ctranslate2-cuda", "float32"), ("ctranslate2-cuda", "float16"),
)  # fmt: skip


def profile() -> Profile:
    """What the engines are built for."""
    return Profile(batch=Span(1, 16, max(SIZES)), source_length=Span(1, SOURCE_LENGTH, LONGEST_SOURCE))


def run_tensorrt(section: Section, folder: Path) -> None:
    """See the head of this file; every row that could not run says why."""
    vocabulary = REDUCED_VOCABULARY if section.reduced else VOCABULARY
    models, groups = folder / "tensorrt", folder / "groups.json"
    models.mkdir(exist_ok=True)
    groups.write_text(json.dumps(_groups(section, vocabulary)), encoding="utf-8")
    files = _write(section, _model(section, vocabulary), models)
    engines = _build(section, files, models)
    backend, graph = ("ort-cpu-static", "static") if section.reduced else ("t2tdeploy", "growing")
    (reference,) = _ask(section, backend, "float32", files[f"{graph} float32"], groups, ["answers parity"])
    precisions = PRECISIONS[1:] if section.reduced else PRECISIONS
    for precision in precisions:
        if f"growing {precision}" in files:
            _compare(section, "parity", "ort-cuda", precision, files[f"growing {precision}"], groups, reference)
        for what, name in (("parity", "static"), ("one step more", "static endless")):
            graph = f"{name} {precision}"
            _compare(section, what, "ort-cpu-static", precision, files[graph], groups, reference)
            if graph in engines:
                _compare(section, what, "tensorrt", precision, engines[graph], groups, reference)
        if f"static {precision}" in engines:
            _early_end(section, precision, engines[f"static {precision}"], groups)
    for backend, precision in SPEED:
        model = _file_of(backend, precision, files, engines)
        if model is not None and precision in precisions:
            _speed(section, backend, precision, model, groups)


def _model(section: Section, vocabulary: int) -> Transformer:
    """transformer_base with random weights."""
    torch.manual_seed(0)
    features = {name: FeatureSpec(name, Modality.SYMBOL, "shared", vocabulary) for name in ("inputs", "targets")}
    return Transformer(base_hparams().replace(**(REDUCED_SIZES if section.reduced else {})), features).eval()


def _groups(section: Section, vocabulary: int) -> dict[str, Any]:
    """Sources: of many lengths, and of one."""
    draw = np.random.default_rng(0)

    def sources(lengths: list[int]) -> list[list[int]]:
        return [[*draw.integers(3, vocabulary, length - 1).tolist(), EOS_ID] for length in lengths]

    lengths = draw.integers(2, 15 if section.reduced else LONGEST_SOURCE, SENTENCES).tolist()
    few = sources(lengths)[: REDUCED_SENTENCES if section.reduced else SENTENCES]
    batch = sources([SOURCE_LENGTH] * max(SIZES))
    return {
        "parity": {"batches": [few], "length": None},
        **{str(size): {"batches": [batch[:size]], "length": TARGET_LENGTH} for size in SIZES},
        **{str(-limit): {"batches": [batch[:16]], "length": limit} for limit in (FEW, MANY)},
    }


def _write(section: Section, model: Transformer, folder: Path) -> dict[str, Path]:
    """Name -> file. Static graphs that decode as `parity` asks, and `forced` ones that all take the same steps."""
    plain = export_static_search(model, StaticSearch(BEAM, ALPHA, STATIC_HYPOTHESES, EXTRA))
    graphs = {"static": plain, "static endless": endless(plain)}
    if not section.reduced:
        forced = StaticSearch(BEAM, NEVER_ENDS, STATIC_HYPOTHESES, TARGET_LENGTH - SOURCE_LENGTH)
        graphs |= {"growing": export_beam_search(model), "static forced": export_static_search(model, forced)}
    files = {}
    for name, graph in graphs.items():
        for precision, made in (("float32", graph), ("float16", halved(graph))):
            files[f"{name} {precision}"] = folder / f"{name} {precision}.onnx"
            files[f"{name} {precision}"].write_bytes(serialized(made))
    convert(model, folder / "ctranslate2")
    return {**files, "ctranslate2": folder / "ctranslate2"}


def endless(graph: onnx.ModelProto) -> onnx.ModelProto:
    """The same search, whose Loop runs to its trip count, whatever its condition says."""
    copy = onnx.ModelProto()
    copy.CopyFrom(graph)
    body = next(node for node in copy.graph.node if node.op_type == "Loop").attribute[0].g
    body.node.append(onnx.helper.make_node("Identity", ["condition"], ["on_and_on"]))
    body.output[0].name = "on_and_on"
    return copy


def _build(section: Section, files: dict[str, Path], folder: Path) -> dict[str, Path]:
    """Name -> engine of the static graphs; in the reduced form, of one."""
    engines = {}
    for name, graph in files.items():
        if not name.startswith("static") or (section.reduced and name != "static float16"):
            continue
        row = {"what": "build", "graph": name}
        begun = time.monotonic()
        try:
            engine = build_engine(graph, folder / "engines", profile(), seconds=section.seconds_left)
        except T2TDeployError as error:
            section.rows.append({**row, "could_not_run": error.message.replace("\n", " ")[:400]})
            continue
        engines[name] = engine.path
        size = round(engine.path.stat().st_size / 2**20, 1)
        built = {**asdict(engine.platform), "engine_mib": size, "build_s": round(time.monotonic() - begun, 1)}
        section.rows.append({**row, **built})
    return engines


def _file_of(backend: str, precision: str, files: dict[str, Path], engines: dict[str, Path]) -> Path | None:
    """What `backend` loads; None: its engine was not built, which a row says, or its graph not exported."""
    if backend == "tensorrt":
        return engines.get(f"static forced {precision}")
    if backend == "ctranslate2-cuda":
        return files["ctranslate2"]
    return files.get(f"{'static forced' if backend == 'ort-tensorrt' else 'growing'} {precision}")


def _ask(
    section: Section, backend: str, precision: str, model: Path, groups: Path, commands: list[str]
) -> list[dict[str, Any]]:
    """A decoder's answers to `commands`.

    Raises:
        WorkerError: it could not be made, or failed.
    """
    job = Job(backend, str(model), precision, available_cpus(), str(groups), ALPHA)
    with WorkerProcess(WORKER, asdict(job), environment=section.variables, seconds=section.seconds_left) as worker:
        worker.wait_until_ready()
        return [worker.ask(*command.split()) for command in commands]


def _compare(
    section: Section, what: str, backend: str, precision: str, model: Path, groups: Path, reference: dict[str, Any]
) -> None:
    row: dict[str, Any] = {"what": what, "backend": backend, "precision": precision}
    try:
        found = _ask(section, backend, precision, model, groups, ["answers parity"])[0]["answers"]
    except WorkerError as error:
        section.rows.append({**row, "could_not_run": str(error)})
        return
    pairs = list(zip(found, reference["answers"], strict=True))
    apart = [abs(ours["score"] - theirs["score"]) for ours, theirs in pairs]
    same = sum(ours["ids"] == theirs["ids"] for ours, theirs in pairs)
    found_row = {"sentences": len(pairs), "identical": same, "largest_score_difference": float(f"{max(apart):.3g}")}
    section.rows.append({**row, **found_row})


def _early_end(section: Section, precision: str, engine: Path, groups: Path) -> None:
    row: dict[str, Any] = {"what": "early end", "backend": "tensorrt", "precision": precision, "batch_size": 16}
    try:
        commands = [f"run {-limit}" for limit in (FEW, FEW, MANY, MANY)]
        _, few, _, many = _ask(section, "tensorrt", precision, engine, groups, commands)
    except WorkerError as error:
        section.rows.append({**row, "could_not_run": str(error)})
        return
    times = {f"ms_{limit}_tokens": round(one["seconds"][0] * 1000, 2) for limit, one in ((FEW, few), (MANY, many))}
    section.rows.append({**row, **times})


def _speed(section: Section, backend: str, precision: str, model: Path, groups: Path) -> None:
    sizes = SIZES[:1] if section.reduced else SIZES
    for size in sizes:
        row: dict[str, Any] = {"what": "speed", "backend": backend, "precision": precision, "batch_size": size}
        try:
            _, *rounds = _ask(section, backend, precision, model, groups, [f"run {size}"] * (ROUNDS + 1))
        except WorkerError as error:
            section.rows.append({**row, "could_not_run": str(error)})
            continue
        rates = [sum(one["tokens"]) / sum(one["seconds"]) for one in rounds]
        milliseconds = statistics.median(sum(one["seconds"]) for one in rounds) * 1000
        speed = {"tokens_per_second": round(statistics.median(rates), 1), "ms_per_batch": round(milliseconds, 2)}
        section.rows.append({**row, **speed})
