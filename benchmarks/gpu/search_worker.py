"""benchmarks/decode_worker.py with the decoders of search_backends.py beside its own. tensorrt_section.py starts it."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))

import decode_worker
from decode_backends import BACKENDS
from search_backends import GPU_BACKENDS

if __name__ == "__main__":
    BACKENDS.update(GPU_BACKENDS)
    decode_worker.main()
