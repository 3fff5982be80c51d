"""The shells, which run the core's flows through httpx.

`_async/` is written by hand for asyncio and trio; `_sync/` is generated from it by
`scripts/unasync.py`. Code that differs between threads and tasks is in a handwritten `_runtime.py`
on each side, with the same names.
"""
