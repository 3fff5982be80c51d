"""The network of threads; `_async/_runtime.py` has the same name for event loops."""

import httpcore

Network = httpcore.SyncBackend
