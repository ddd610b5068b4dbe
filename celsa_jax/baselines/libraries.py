"""The optional library that two baselines come from."""

from __future__ import annotations

import importlib
import types

from celsa_jax.errors import InputError


def implicit(module: str) -> types.ModuleType:
    """A module of `implicit`; InputError where the library is not installed."""
    try:
        return importlib.import_module(f"implicit.{module}")
    except ImportError:
        raise InputError("implicit is not installed: pip install 'celsa_jax[baselines]'") from None
