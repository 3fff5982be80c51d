"""One of the two shells: `AsyncH2oClient`, for asyncio and trio."""
