"""What a fitted baseline is, and how many numbers an item may keep."""

from __future__ import annotations

import dataclasses

from celsa_jax.errors import InputError
from celsa_jax.sparse.retrieval import Scorer


@dataclasses.dataclass(frozen=True)
class Baseline:
    """A fitted method, ready to be judged.

    Attributes:
      score: from histories, CSR [n, n_items] float32, to scores [n, n_items].
      bytes_per_item: the mean of what serving keeps of an item; None where it is not comparable.
    """

    score: Scorer
    bytes_per_item: float | None


def numbers_within(n_bytes: int, each: int) -> int:
    """How many numbers of `each` bytes go into `n_bytes`; InputError where not one does."""
    if n_bytes < each:
        raise InputError(f"{n_bytes} bytes an item hold no number of {each}; allow at least {each}")
    return n_bytes // each
