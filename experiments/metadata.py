"""Flags of item metadata, and their reading."""

from __future__ import annotations

import numpy as np
from absl import flags

from celsa_jax.data.metadata import Metadata, read_metadata

METADATA = flags.DEFINE_list("metadata", [], "Tables of items: CSV, TSV or parquet.")
ID = flags.DEFINE_list("id_column", ["item_id"], "Column of item ids, one or one a table.")
TEXT = flags.DEFINE_list("text_columns", [], "Columns to read: the title first, then others.")
ENCODING = flags.DEFINE_string("encoding", "utf-8", "Of the tables in CSV and TSV.")


def read(item_ids: np.ndarray) -> Metadata:
    """The metadata of a catalogue that the flags name."""
    return read_metadata(METADATA.value, ID.value, TEXT.value, item_ids, ENCODING.value)
