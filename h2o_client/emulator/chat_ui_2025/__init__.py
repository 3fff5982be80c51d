"""The dialect of 2025 servers: chat-ui 0.10, and main of August 2026."""
