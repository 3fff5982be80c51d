"""Benchmarks of this client and its peers: `python -m tests.benchmarks`, from the repository root.

`server.py` is the server, in a separate process. `clients.py` lists the clients to measure.
`child.py` runs one client once, in a separate process, and prints its costs. `measure.py` runs
the children in turn, round after round; `goals.py` checks the results against goals, `report.py`
prints and draws them. A stored run can be loaded with `--load FILE`.
"""
