"""torch.onnx without its notes about itself."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

LOGGERS = ("torch.onnx", "onnx_ir")


@contextmanager
def quiet_exporter() -> Iterator[None]:
    """Hides the exporter's log lines and warnings; real failures are exceptions."""
    levels = {logging.getLogger(name): logging.getLogger(name).level for name in LOGGERS}
    for logger in levels:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in levels.items():
            logger.setLevel(level)
