"""The dialect of the servers of 2025 and later: chat-ui 0.10 and main of 2026-08."""
