"""The dialect of 2023 servers: chat-ui 0.3 to 0.6."""
