"""Runs a bundle's graph: one onnxruntime session, arrays in, arrays out. onnxruntime is imported on first use."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from t2tdeploy.bundle import DecodeDefaults
from t2tdeploy.decoding import NO_CONTROLS, SearchControls
from t2tdeploy.errors import CorruptFileError, OperationalError, UnreadableError
from t2tdeploy.machine import release_freed_memory
from t2tdeploy.providers import NEEDED, PROVIDERS, providers_of
from t2tdeploy.search_inputs import IntArray, control_feeds, require_fixed, sample_chances
from t2tdeploy.tensorrt_engines import InputsProfile, is_installed


def available_cpus(root: Path = Path("/")) -> int:
    """CPUs that this process may use: its affinity, cut by the CPU quota of its control groups (v1 and v2).

    A quota of 2.5 CPUs gives 2: threads beyond the quota are throttled, which costs more than they bring.

    Args:
        root: where /proc and /sys are found.
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, int(min([float(affinity), *_quotas(root)])))


def _quotas(root: Path) -> list[float]:
    """The quotas, in CPUs, of the process's control group and of all groups around it."""
    groups = {"": "/", "cpu": "/"}  # controller -> group; v2 has no controller name
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, group = line.split(":", 2)
        for controller in controllers.split(","):
            groups[controller] = group
    v2 = [_read(directory / "cpu.max").split() for directory in _upwards(root / "sys/fs/cgroup", groups[""])]
    v1 = [
        [_read(directory / "cpu.cfs_quota_us").strip(), _read(directory / "cpu.cfs_period_us").strip()]
        for directory in _upwards(root / "sys/fs/cgroup/cpu", groups["cpu"])
    ]
    pairs = [pair for pair in (*v2, *v1) if len(pair) == 2]
    return [
        int(quota) / int(period)
        for quota, period in pairs
        if quota.isdigit() and period.isdigit() and int(period) > 0  # "max" and -1 mean no quota
    ]


def _upwards(mount: Path, group: str) -> list[Path]:
    """The folders from `group` up to `mount`. In a container the group may name a folder only the host sees."""
    names = [name for name in group.split("/") if name not in ("", "..")]
    return [mount.joinpath(*names[:count]) for count in range(len(names), -1, -1)]


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def import_onnxruntime() -> Any:
    """The onnxruntime module.

    Raises:
        OperationalError: it is not installed.
    """
    try:
        import onnxruntime

        onnxruntime.disable_telemetry_events()  # some builds would report their use to their maker
    except ImportError as error:
        raise OperationalError(
            f"onnxruntime cannot be imported: {error}", help="install it with: pip install 't2tdeploy[serve]'"
        ) from error
    return onnxruntime


SPIN_US = 20
"""Microseconds that a thread of a session stays awake without work, unless told otherwise.

To wake a sleeping thread costs microseconds at every operator. A thread that spins takes a CPU that others may want, at
worst from the thread that it waits for. So many bridge most gaps between two operators, and cost little where CPUs are
shared; benchmarks/spinning.py measures both.
"""


def session_options(threads: int, spin_us: int = SPIN_US) -> Any:
    """onnxruntime's options of a session that answers requests.

    Args:
        threads: that one run uses.
        spin_us: how long a thread without work spins within a run before it sleeps; 0: it sleeps at once, and always
            does so with onnxruntime before 1.26, which knows no such bound.
    """
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    spins = spin_us > 0 and _release(onnxruntime.__version__) >= (1, 26)
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spins)))
    if spins:
        options.add_session_config_entry("session.intra_op.spin_duration_us", str(spin_us))
        options.add_session_config_entry("session.force_spinning_stop", "1")  # not between two runs
    return options


def _release(version: str) -> tuple[int, int]:
    """ "1.31.1" -> (1, 31)"""
    major, minor, *_ = version.split(".")
    return int(major), int(minor)


def available_targets() -> list[str]:
    """The targets that the onnxruntime installed here was built for, without TensorRT's where that is not installed; a
    GPU may still be missing.

    Raises:
        OperationalError: onnxruntime is not installed.
    """
    built = import_onnxruntime().get_available_providers()
    found = [target for target, provider in PROVIDERS.items() if provider in built]
    if "tensorrt" in found and not is_installed("tensorrt"):
        found.remove("tensorrt")
    return found


@dataclass(frozen=True)
class SearchResult:
    """Hypotheses of a batch, best first.

    Args:
        target_ids: [batch, hypotheses, target_length], EOS included, then PAD.
        scores: [batch, hypotheses], log-probability over the length penalty.
        lengths: [batch, hypotheses], tokens, EOS included.
        finished: [batch]; False: nothing ended within max_length, the rows hold unended sequences and scores are
            raw log-probabilities.
        token_scores: [batch, hypotheses, target_length], log-probability of each token; graphs of older bundles have
            none.
        attention: [batch, hypotheses, target_length, source_length], the last decoder layer's when it chose each token,
            mean over heads; graphs of older bundles have none.
    """

    target_ids: IntArray
    scores: npt.NDArray[np.float32]
    lengths: IntArray
    finished: npt.NDArray[np.bool_]
    token_scores: npt.NDArray[np.float32] | None = None
    attention: npt.NDArray[np.float32] | None = None


def not_loaded(graph: Path, error: Exception) -> OperationalError:
    """What it means that onnxruntime did not load a graph.

    Of a file that it cannot open it says nothing but the system's number: "system error number 24" of the graph,
    "SystemError : 24" of weights beside it.
    """
    said = re.search(r"(?:system error number|SystemError :) (\d+)$", str(error))
    if said:
        return UnreadableError(graph, OSError(int(said[1]), os.strerror(int(said[1]))))
    return CorruptFileError(graph, f"onnxruntime cannot load it: {error}")


class SearchStoppedError(OperationalError):
    """A search was stopped through its `Interrupt`."""


class Interrupt:
    """Lets another thread stop a search that is under way, between two operators of the graph."""

    def __init__(self) -> None:
        self.run_options = import_onnxruntime().RunOptions()
        self.run_options.log_severity_level = 4  # else being stopped is logged as an error; errors are raised anyway

    @property
    def stopped(self) -> bool:
        """Whether `stop` was called."""
        return bool(self.run_options.terminate)

    def stop(self) -> None:
        """The search ends with SearchStoppedError, at once or when it starts."""
        self.run_options.terminate = True


class Session:
    """A loaded graph. Safe to use from several threads.

    Attributes:
        inputs, outputs: names of its inputs and outputs.

    Args:
        graph: an ONNX file, or its content.
        threads: that one run uses; None: `available_cpus()`.
        spin_us: see `session_options`.
        target: a key of `PROVIDERS`.
        profile: what the engine is built for if that is tensorrt, where `graph` is a file. The engine is built now, or
            found where an earlier session put it. Larger batches run in parts.

    Raises:
        CorruptFileError: onnxruntime cannot load the graph (its own words).
        UnreadableError: it, or the file of its weights, cannot be read.
        OperationalError: onnxruntime is not installed, or does not reach the target.
    """

    def __init__(
        self,
        graph: Path | bytes,
        *,
        threads: int | None = None,
        spin_us: int = SPIN_US,
        target: str = "cpu",
        profile: InputsProfile | None = None,
    ) -> None:
        onnxruntime = import_onnxruntime()
        self.threads = threads or available_cpus()
        options = session_options(self.threads, spin_us)
        source = graph if isinstance(graph, bytes) else str(graph)
        if target != "cpu" and hasattr(onnxruntime, "preload_dlls"):
            onnxruntime.preload_dlls()  # finds the CUDA libraries that pip installed
        wanted = providers_of(graph, target, profile)
        self._most_rows = profile.largest_batch if target == "tensorrt" and profile else None
        try:
            self._session = onnxruntime.InferenceSession(source, options, providers=wanted)
            self.inputs = [one.name for one in self._session.get_inputs()]
            self.outputs = [one.name for one in self._session.get_outputs()]
        except Exception as error:  # onnxruntime's exceptions share no base class
            path = Path("model.onnx") if isinstance(graph, bytes) else graph
            if target == "tensorrt":
                raise OperationalError(f"TensorRT did not build an engine of {path}: {error}") from error
            raise not_loaded(path, error) from error
        release_freed_memory()  # the parsed graph, and weights as they were before onnxruntime packed them
        got = self._session.get_providers()
        if PROVIDERS[target] not in got:  # onnxruntime goes on without
            raise OperationalError(
                f"onnxruntime cannot use {PROVIDERS[target]}, only {', '.join(got)}",
                help=f"{NEEDED[target]}, and check nvidia-smi",
            )

    def call(
        self, outputs: Sequence[str], feeds: Mapping[str, npt.NDArray[Any]], interrupt: Interrupt | None = None
    ) -> list[Any]:
        """One run of the graph.

        Args:
            outputs: their names.
            feeds: inputs by name.
            interrupt: stops it from another thread.

        Raises:
            SearchStoppedError: the interrupt was used.
            OperationalError: onnxruntime failed (its own words).
        """
        parts = [self._run_session(outputs, part, interrupt) for part in self._parts(feeds)]
        return parts[0] if len(parts) == 1 else [np.concatenate(values) for values in zip(*parts, strict=True)]

    def _parts(self, feeds: Mapping[str, npt.NDArray[Any]]) -> Iterator[Mapping[str, npt.NDArray[Any]]]:
        """Of a batch that is larger than the engine takes; all its inputs begin with the axis batch."""
        if self._most_rows is None:
            yield feeds
            return
        for start in range(0, len(next(iter(feeds.values()))), self._most_rows):
            yield {name: array[start : start + self._most_rows] for name, array in feeds.items()}

    def _run_session(
        self, outputs: Sequence[str], feeds: Mapping[str, npt.NDArray[Any]], interrupt: Interrupt | None
    ) -> list[Any]:
        try:
            values: list[Any] = self._session.run(outputs, feeds, interrupt.run_options if interrupt else None)
        except Exception as error:  # onnxruntime's exceptions share no base class
            if interrupt and interrupt.stopped:
                raise SearchStoppedError("the search was stopped") from error
            raise OperationalError(f"onnxruntime failed to run the graph: {error}") from error
        return values


class GraphSession(Session):
    """A loaded graph with a search inside, ready to search.

    Attributes:
        controls: inputs that may be left out, see `SearchControls`; graphs of older bundles have none.
        fixed: as given.

    Args:
        fixed: how a graph of static layout decodes, whatever is asked; None: as it is asked.
        others, Raises: as `Session`.
    """

    def __init__(
        self,
        graph: Path | bytes,
        *,
        threads: int | None = None,
        spin_us: int = SPIN_US,
        target: str = "cpu",
        profile: InputsProfile | None = None,
        fixed: DecodeDefaults | None = None,
    ) -> None:
        super().__init__(graph, threads=threads, spin_us=spin_us, target=target, profile=profile)
        self.fixed = fixed
        self.controls = frozenset(one.name for one in self._session.get_overridable_initializers())
        self._outputs = [field.name for field in fields(SearchResult) if field.name in self.outputs]

    def search(
        self,
        source_ids: IntArray,
        max_length: IntArray,
        *,
        beam_size: int,
        alpha: float,
        num_hypotheses: int,
        controls: SearchControls = NO_CONTROLS,
        min_length: IntArray | None = None,
        prefix: IntArray | None = None,
        interrupt: Interrupt | None = None,
    ) -> SearchResult:
        """Beam search, or sampling, for every row.

        Args:
            source_ids: [batch, source_length], EOS at the end of every row, PAD behind it.
            max_length: [batch], tokens of the longest target, EOS included.
            beam_size: hypotheses kept during the search.
            alpha: length penalty.
            num_hypotheses: returned per row, at most beam_size; equal to it when sampling.
            min_length: [batch], tokens of the shortest target, EOS included.
            prefix: [batch, prefix_length], ids that a target starts with, PAD behind them.
            interrupt: stops the search from another thread.

        Raises:
            SearchStoppedError: the interrupt was used.
            OperationalError: onnxruntime failed (its own words), or the graph has no such control.
            RequestError: the graph has another search fixed.
        """
        if self.fixed is not None:
            require_fixed(self.fixed, beam_size, alpha, num_hypotheses, controls)
            feeds = {"source_ids": source_ids, "max_length": max_length}
            values = self.call(self._outputs, feeds, interrupt)
            return SearchResult(**dict(zip(self._outputs, values, strict=True)))
        wishes: dict[str, Any] = {
            **control_feeds(controls),
            **({} if min_length is None else {"min_length": min_length}),
            **({} if prefix is None or prefix.size == 0 else {"prefix": prefix}),
        }
        if controls.temperature > 0:
            wishes["uniforms"] = sample_chances(source_ids, int(max_length.max()), beam_size, controls.seed)
        options: dict[str, Any] = {"beam_size": beam_size, "alpha": alpha, "num_hypotheses": num_hypotheses}
        values = self.run(self._outputs, source_ids, max_length, **options, wishes=wishes, interrupt=interrupt)
        return SearchResult(**dict(zip(self._outputs, values, strict=True)))

    def run(
        self,
        outputs: Sequence[str],
        source_ids: IntArray,
        max_length: IntArray,
        *,
        beam_size: int,
        alpha: float,
        num_hypotheses: int,
        wishes: Mapping[str, npt.NDArray[Any]] | None = None,
        interrupt: Interrupt | None = None,
    ) -> list[Any]:
        """As `search`; returns these outputs of the graph.

        Args:
            wishes: further inputs of the graph.
        """
        for name in sorted(set(wishes or ()) - self.controls):
            raise OperationalError(f"the graph has no '{name}'", help="export it again with this version of t2tdeploy")
        feeds: dict[str, npt.NDArray[Any]] = {
            "source_ids": source_ids,
            "max_length": max_length,
            "beam_size": np.array(beam_size, dtype=np.int64),
            "alpha": np.array(alpha, dtype=np.float32),
            "num_hypotheses": np.array(num_hypotheses, dtype=np.int64),
            **(wishes or {}),
        }
        return self.call(outputs, feeds, interrupt)
