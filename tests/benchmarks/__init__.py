"""This client beside its peers: `python -m tests.benchmarks`, from the root of the repository.

`server.py` is the other side, in a process of its own. `clients.py` is the table of those that are
measured. `child.py` runs one of them once, in a process of its own, and prints what it cost.
`measure.py` runs children in turn, round after round; `goals.py` says what must be true of the
figures, `report.py` prints and draws them. A run can be read back: `--load FILE`.
"""
