"""The decoders that are compared: each is made of (model, precision, threads, alpha) and translates a batch of ids.

    backend(batch, length) -> for each source: (ids with EOS, score)

`batch` has source ids with EOS. With `length`, every search takes so many steps; with None it ends where its model ends
it, at the latest EXTRA tokens beyond its source. The beam is 4.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

BEAM, EXTRA = 4, 50
NEVER_ENDS = 10.0  # with this alpha an early end never beats a late one, so that our search uses all its length
Found = list[tuple[list[int], float]]


class T2TDeploy:
    """Our graph in onnxruntime, as the server runs it. `model` is the ONNX file of the precision."""

    patience = math.inf

    def __init__(self, model: Path, precision: str, threads: int, alpha: float) -> None:
        from t2tdeploy.runtime import GraphSession

        self._session = GraphSession(model, threads=threads)
        self._alpha = alpha

    def __call__(self, batch: list[list[int]], length: int | None) -> Found:
        from t2tdeploy.decoding import NO_CONTROLS, SearchControls
        from t2tdeploy.sentences import pad_rows

        limits = [len(ids) + EXTRA if length is None else length for ids in batch]
        result = self._session.search(
            pad_rows(batch),
            np.array(limits),
            beam_size=BEAM,
            alpha=self._alpha if length is None else NEVER_ENDS,
            num_hypotheses=1,
            controls=SearchControls(patience=self.patience) if length is None else NO_CONTROLS,
        )
        return [
            (result.target_ids[row, 0, : result.lengths[row, 0]].tolist(), float(result.scores[row, 0]))
            for row in range(len(batch))
        ]


class EarlyStopping(T2TDeploy):
    """The same with CTranslate2's stop rule: beam_size * patience hypotheses, of the beam_size best of their step."""

    patience = 1.0


class CTranslate2:
    """`model` is what ctranslate2_model.convert wrote; its ids are words of that name."""

    shortlist = False

    def __init__(self, model: Path, precision: str, threads: int, alpha: float, device: str = "cpu") -> None:
        import ctranslate2
        from ctranslate2_model import EOS, START

        self._translator = ctranslate2.Translator(
            str(model), device=device, compute_type=precision, intra_threads=threads, inter_threads=1
        )
        self._names = {0: START, 1: EOS}
        self._ids = {START: 0, EOS: 1}
        self._alpha = alpha

    def __call__(self, batch: list[list[int]], length: int | None) -> Found:
        longest = max(map(len, batch)) + EXTRA if length is None else length
        results = self._translator.translate_batch(
            [[self._names.get(one) or str(one) for one in ids] for ids in batch],
            beam_size=BEAM,
            length_penalty=self._alpha,
            max_decoding_length=longest,
            min_decoding_length=1 if length is None else length,
            max_batch_size=0,
            return_scores=True,
            return_end_token=length is None,
            use_vmap=self.shortlist,
        )
        return [
            ([self._ids.get(one) or int(one) for one in result.hypotheses[0]], result.scores[0]) for result in results
        ]


class CTranslate2Shortlist(CTranslate2):
    """The same, which looks at its vocabulary map."""

    shortlist = True


class _Generated:
    """What Transformers' generate and Optimum's have in common: a Marian of the same size with random weights."""

    _model: Any

    def __call__(self, batch: list[list[int]], length: int | None) -> Found:
        import torch

        if length is None:
            raise ValueError("random weights are only good for a forced length")
        ids = torch.tensor(batch)  # of one length
        with torch.inference_mode():
            found = self._model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                num_beams=BEAM,
                min_new_tokens=length,
                max_new_tokens=length,
                do_sample=False,
            )
        return [(row[1:].tolist(), 0.0) for row in found]


class Transformers(_Generated):
    """Transformers' generate; `model` is a folder of `save_pretrained`."""

    def __init__(self, model: Path, precision: str, threads: int, alpha: float) -> None:
        import torch
        from transformers import MarianMTModel

        torch.set_num_threads(threads)
        self._model = MarianMTModel.from_pretrained(model).eval()


class Optimum(_Generated):
    """Optimum's model for onnxruntime; `model` is a folder of its `save_pretrained`."""

    def __init__(self, model: Path, precision: str, threads: int, alpha: float) -> None:
        import torch
        from onnxruntime import SessionOptions
        from optimum.onnxruntime import ORTModelForSeq2SeqLM

        torch.set_num_threads(threads)
        options = SessionOptions()
        options.intra_op_num_threads = threads
        self._model = ORTModelForSeq2SeqLM.from_pretrained(model, session_options=options)


BACKENDS = {
    "t2tdeploy": T2TDeploy,
    "t2tdeploy, early stopping": EarlyStopping,
    "t2tdeploy, shortlist": T2TDeploy,
    "ctranslate2": CTranslate2,
    "ctranslate2, shortlist": CTranslate2Shortlist,
    "transformers": Transformers,
    "optimum": Optimum,
}
