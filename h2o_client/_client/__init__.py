"""The shells: what plays the core's flows through httpx.

`_async/` is written by hand for asyncio and trio; `_sync/` is generated from it by
`scripts/unasync.py`. What threads and tasks do differently stands in a `_runtime.py` on each side,
written by hand, with the same names.
"""
