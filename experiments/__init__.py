"""Programs over the library; run them as `python -m experiments.NAME`.

`cli.py`, `inputs.py`, `metadata.py` are what they share; `demo_*.py` belong to the demo,
`inference_*.py` to `benchmark_inference.py`, `broken_files.py` and `reader_checks.py` to
`stress_readers.py`.
"""
