"""Programs over the library; run them as `python -m experiments.NAME`.

`cli.py` and `inputs.py` are what they share; `demo_*.py` belong to the demo.
"""
