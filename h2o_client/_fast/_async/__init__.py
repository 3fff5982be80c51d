"""The side of the transport for asyncio and trio."""
