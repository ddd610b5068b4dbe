"""Sweeps: a grid of runs, done once each, their tables and figures (no JAX until one trains)."""

from celsa_jax.sweeps.grid import expand, make_sweep
from celsa_jax.sweeps.methods import Run
from celsa_jax.sweeps.runner import run_sweep

__all__ = ["Run", "expand", "make_sweep", "run_sweep"]
