"""Reference methods, judged by the same protocol (NumPy and SciPy, no JAX)."""
