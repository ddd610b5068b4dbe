"""Segments: groups of items read off the latent factors, named, merged, recommended, explained.

No JAX, but scikit-learn, Jinja2 and what `celsa_jax.data` needs; a language model and sentence
embeddings take the extras `llm` and `sentences`.
"""

from celsa_jax.segments.embedders import SentenceEmbedder, TfidfEmbedder
from celsa_jax.segments.files import load_merges, load_segments, save_segments
from celsa_jax.segments.find import Segmentation, find_segments
from celsa_jax.segments.groups import Groups, extract
from celsa_jax.segments.language_model import LanguageModelNamer
from celsa_jax.segments.recommend import Activations, Explanation, Row, SegmentRecommender
from celsa_jax.segments.segments import Segment, Segments
from celsa_jax.segments.terms import ItemTerms, item_terms

__all__ = [
    "Activations",
    "Explanation",
    "Groups",
    "ItemTerms",
    "LanguageModelNamer",
    "Row",
    "Segment",
    "SegmentRecommender",
    "Segmentation",
    "Segments",
    "SentenceEmbedder",
    "TfidfEmbedder",
    "extract",
    "find_segments",
    "item_terms",
    "load_merges",
    "load_segments",
    "save_segments",
]
