"""Segments: nested groups of items of like embeddings, named, recommended, explained.

No JAX, but scikit-learn, Jinja2 and what `celsa_jax.data` needs; a language model and sentence
embeddings take the extras `llm` and `sentences`.
"""

from celsa_jax.segments.embedders import SentenceEmbedder, TfidfEmbedder
from celsa_jax.segments.files import load_segments, save_segments
from celsa_jax.segments.find import Catalogue, find_segments, segments_of_factors
from celsa_jax.segments.language_model import LanguageModelNamer
from celsa_jax.segments.recommend import Row, SegmentRecommender
from celsa_jax.segments.segments import Segment, Segments, SegmentTree
from celsa_jax.segments.terms import ItemTerms, item_terms

__all__ = [
    "Catalogue",
    "ItemTerms",
    "LanguageModelNamer",
    "Row",
    "Segment",
    "SegmentRecommender",
    "SegmentTree",
    "Segments",
    "SentenceEmbedder",
    "TfidfEmbedder",
    "find_segments",
    "item_terms",
    "load_segments",
    "save_segments",
    "segments_of_factors",
]
