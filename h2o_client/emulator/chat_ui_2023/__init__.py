"""The dialect of the servers of 2023: chat-ui 0.3 to 0.6."""
