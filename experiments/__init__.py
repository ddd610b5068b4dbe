"""Programs over the library; run them as `python -m experiments.NAME`."""
