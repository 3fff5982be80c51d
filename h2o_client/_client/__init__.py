"""The shells, which play the core's flows through httpx.

`_async/` is written by hand for asyncio and trio; `_sync/` is generated from it by
`scripts/unasync.py`. Where threads and tasks differ, each side has a `_runtime.py`, written by
hand, with the same names.
"""
