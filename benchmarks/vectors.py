"""Text vectors of a data set's items, encoded once per text and kept under the hash of its content."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

CACHE = "NIGHTSHELF_BENCHMARK_CACHE"
"""Environment variable: folder that keeps vectors between runs; without it every run encodes anew."""


def encoded(texts: NDArray[np.object_], log: Callable[[str], None]) -> NDArray[np.float32]:
    """[items, dimensions] by the default encoder; [items, 0] where there are no texts or no weights."""
    if not any(texts):
        log("no item has words: ids and attributes only")
        return np.zeros((len(texts), 0), np.float32)
    from assets.model.vectors import item_vectors
    from resources.text_encoder import EncoderError, resolve_encoder

    with tempfile.TemporaryDirectory() as aside:
        cache = Path(os.environ.get(CACHE, aside))
        try:
            return item_vectors(Path(resolve_encoder("default")), list(texts), cache, log)
        except EncoderError as error:
            log(f"no text encoder ({error}): ids and attributes only")
            return np.zeros((len(texts), 0), np.float32)
