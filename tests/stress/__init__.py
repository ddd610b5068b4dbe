"""Broken files and broken runs by the thousand; each test of the suite takes a few of them.

`readers.py` and `runs.py` are programs (`python -m tests.stress.readers`); `reader_checks.py` and
`broken_files.py` make the files of the first.
"""
