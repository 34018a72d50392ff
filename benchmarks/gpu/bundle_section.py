"""A bundle's variants on this machine: translations beside float32 on the CPU, and a server under load.

Rows have a `what`:

    translations   of the test split: BLEU, and how many are those of the CPU's float32
    server         `t2tdeploy serve` with so many callers, one sentence a request: sentences per second, milliseconds
    session        batches of a size, as `t2tdeploy benchmark` measures them
"""

from __future__ import annotations

import gzip
import json
import tempfile
from pathlib import Path
from typing import Any

from processes import CouldNotRunError, Section, run_python
from serving_process import ServerProcess, serve_command

CALLERS = (1, 64, 256)
LARGEST_BATCH = 128
SECONDS = 8.0
TRANSLATE = """
import json, sys, t2tdeploy
bundle, variant, source = sys.argv[1:]
sources = open(source, encoding="utf-8").read().splitlines()
print(json.dumps([one[0].text for one in t2tdeploy.load(bundle, variant=variant).translate(sources)]))
"""


def run_bundle(section: Section, bundle: Path | None, source_dir: Path | None) -> None:
    """See the head of this file.

    Raises:
        CouldNotRunError: there is no bundle, or no text.
    """
    if bundle is None or source_dir is None:
        raise CouldNotRunError("wants --bundle and --source-dir")
    manifest = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    reference = manifest["default_variant"]
    with tempfile.TemporaryDirectory() as folder:
        sources = Path(folder) / "test.en"
        sources.write_text("\n".join(_test(source_dir, "en")) + "\n", encoding="utf-8")
        expected = _translations(section, bundle, reference, sources)
        for variant in manifest["variants"]:
            row: dict[str, Any] = {"what": "translations", "variant": variant}
            try:
                found = _translations(section, bundle, variant, sources)
                section.rows.append({**row, **_scores(found, expected, _test(source_dir, "de"))})
                section.rows += _served(section, bundle, variant, sources)
            except CouldNotRunError as error:
                section.rows.append({**row, "could_not_run": str(error)})
        section.rows += _speeds(section, bundle, sources)


def _test(source_dir: Path, language: str) -> list[str]:
    return gzip.decompress((source_dir / f"test_2016_flickr.{language}.gz").read_bytes()).decode().splitlines()


def _translations(section: Section, bundle: Path, variant: str, sources: Path) -> list[str]:
    arguments = ["-c", TRANSLATE, bundle.resolve(), variant, sources]
    printed = run_python(arguments, variables=section.variables, seconds=section.seconds_left)
    texts: list[str] = json.loads(printed.splitlines()[-1])
    return texts


def _scores(found: list[str], expected: list[str], references: list[str]) -> dict[str, Any]:
    import sacrebleu

    same = sum(one == other for one, other in zip(found, expected, strict=True))
    bleu = sacrebleu.corpus_bleu(found, [references]).score
    return {"sentences": len(found), "identical": same, "bleu": round(bleu, 2)}


def _served(section: Section, bundle: Path, variant: str, sources: Path) -> list[dict[str, Any]]:
    """A row for each number of callers."""
    command = [*serve_command(bundle.resolve(), max_batch_size=LARGEST_BATCH), "--variant", variant]
    with ServerProcess(command) as server:
        words = ["-m", "t2tdeploy", "load-test", "--server", server.address, "--input", sources, "--json"]
        words += ["--concurrency", ",".join(map(str, CALLERS)), "--duration", str(SECONDS)]
        printed = run_python(words, variables=section.variables, seconds=section.seconds_left)
    rows = []
    for one in json.loads(printed.splitlines()[-1])["measurements"]:
        latency = {name: _short(one["latency"][name]) for name in ("p50_ms", "p99_ms")}
        rates = {"sentences_per_second": _short(one["per_second"]["sentences"]), **latency}
        rows.append({"what": "server", "variant": variant, "callers": one["concurrency"], **rates})
    return rows


def _speeds(section: Section, bundle: Path, sources: Path) -> list[dict[str, Any]]:
    words = ["-m", "t2tdeploy", "benchmark", "--bundle", bundle.resolve(), "--input", sources, "--json"]
    printed = run_python(words, variables=section.variables, seconds=section.seconds_left)
    kept = ("variant", "threads", "batch_size", "sentences_per_second", "tokens_per_second", "p50_ms", "p99_ms")
    speeds = json.loads(printed.splitlines()[-1])["speeds"]
    return [{"what": "session", **{name: _short(one[name]) for name in kept}} for one in speeds]


def _short(value: Any) -> Any:
    return round(value, 2) if isinstance(value, float) else value
