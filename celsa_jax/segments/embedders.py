"""What a name means, as a vector; and how alike two names must be to be one."""

from __future__ import annotations

import pathlib
from typing import Protocol

import numpy as np
import scipy.sparse as sp
from sklearn.feature_extraction.text import TfidfVectorizer

from celsa_jax.errors import InputError, one_line


class Embedder(Protocol):
    """Turns texts into unit vectors.

    Attributes:
      threshold: the cosine from which on two groups are one segment, or None if it must be given.
    """

    @property
    def threshold(self) -> float | None: ...

    def embed(self, texts: list[str]) -> np.ndarray | sp.csr_matrix:
        """[len(texts), size], unit rows (zero where a text says nothing)."""
        ...


class TfidfEmbedder:
    """TF-IDF of the words of the texts themselves: no model, no network.

    Thresholds other than gte-large's are the lowest multiples of 0.05 at which merging keeps 0.90
    (to two digits) of the groups' coherence on both releases of Goodbooks-10k.
    """

    threshold = 0.70

    def embed(self, texts: list[str]) -> sp.csr_matrix:
        words = TfidfVectorizer(stop_words="english").build_analyzer()

        def analyze(text: str) -> list[str]:
            # "It" and "The Who" have no word to go by: the whole is one, so that namesakes merge.
            whole = text.casefold().strip(" :,")
            return words(text) or ([whole] if whole else [])

        try:
            return TfidfVectorizer(analyzer=analyze, sublinear_tf=True).fit_transform(texts)
        except ValueError:  # no word in any text
            return sp.csr_matrix((len(texts), 1))


THRESHOLDS = {"gte-large": 0.95, "all-minilm-l6-v2": 0.85}


class SentenceEmbedder:
    """A sentence-transformers model from a local folder (`pip install celsa_jax[sentences]`).

    Args:
      path: the folder of the model. Nothing is downloaded. The threshold is known where the folder
        or the one above is called gte-large (the paper's 0.95) or all-MiniLM-L6-v2.
    """

    def __init__(self, path: str | pathlib.Path):
        path = pathlib.Path(path)
        if not (path / "modules.json").is_file():
            raise InputError(
                f"{path}: not the folder of a sentence-transformers model (one with modules.json); "
                "models are not downloaded: give a folder on this machine"
            )
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError:
            raise InputError(
                "sentence-transformers is not installed: pip install 'celsa_jax[sentences]'"
            ) from None
        folders = [part.casefold() for part in path.resolve().parts[-2:]]
        self.threshold = next((THRESHOLDS[part] for part in folders if part in THRESHOLDS), None)
        try:
            self._model = SentenceTransformer(str(path), local_files_only=True)
        except Exception as error:  # the loaders of its many files raise whatever they like
            raise InputError(
                f"{path}: cannot be read as a sentence-transformers model: {one_line(error)}"
            ) from None

    def embed(self, texts: list[str]) -> np.ndarray:
        return self._model.encode(
            texts, normalize_embeddings=True, convert_to_numpy=True, show_progress_bar=False
        )
