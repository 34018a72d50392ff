"""Builds one engine and ends: a program for export/tensorrt.py, which survives whatever happens here.

    python -m t2tdeploy.export.tensorrt_builder '{"library": …, "graph": …, "engine": …, …}'

The argument has what `build` takes. Faults are logged, and then no engine is written.
"""

from __future__ import annotations

import importlib
import json
import logging
import sys
from pathlib import Path
from typing import Any

from t2tdeploy.errors import OperationalError
from t2tdeploy.files import atomic_file

logger = logging.getLogger(__name__)


def build(
    library: str, graph: str, engine: str, timing_cache: str, shapes: dict[str, dict[str, tuple[int, ...]]]
) -> None:
    """Parses `graph`, builds it for `shapes` (`min`, `opt`, `max` -> input -> shape) and writes it to `engine`.

    Args:
        library: name of TensorRT's module.
        timing_cache: file that is read if it is there, and written.

    Raises:
        OperationalError: TensorRT refused the graph or the profile.
    """
    trt = importlib.import_module(library)
    log = trt.Logger(trt.Logger.WARNING)
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(graph):
        raise OperationalError("; ".join(_words(parser.get_error(i)) for i in range(parser.num_errors)))
    config = builder.create_builder_config()
    profile = builder.create_optimization_profile()
    for name, smallest in shapes["min"].items():
        profile.set_shape(name, smallest, shapes["opt"][name], shapes["max"][name])
    if config.add_optimization_profile(profile) < 0:
        raise OperationalError(f"TensorRT does not take the profile {shapes}")
    timings = _load_timings(config, Path(timing_cache)) if library == "tensorrt" else None
    built = builder.build_serialized_network(network, config)
    if built is None:
        raise OperationalError("TensorRT built nothing")
    Path(engine).write_bytes(memoryview(built))
    if timings is not None:
        with atomic_file(Path(timing_cache)) as temporary:
            temporary.write_bytes(memoryview(timings.serialize()))


def _words(error: Any) -> str:
    return f"{error.node_operator()} '{error.node_name()}': {error.desc()}"


def _load_timings(config: Any, path: Path) -> Any:
    """What was measured before; `tensorrt_rtx` measures nothing."""
    content = path.read_bytes() if path.is_file() else b""
    timings = config.create_timing_cache(content) or config.create_timing_cache(b"")  # of another version: begin anew
    config.set_timing_cache(timings, ignore_mismatch=False)
    return timings


def main() -> None:
    """The program."""
    logging.basicConfig(format="%(message)s")
    try:
        build(**json.loads(sys.argv[1]))
    except OperationalError as error:
        logger.error("%s", error.message)


if __name__ == "__main__":
    main()
