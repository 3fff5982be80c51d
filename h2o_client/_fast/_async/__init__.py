"""The transport for asyncio and trio."""
