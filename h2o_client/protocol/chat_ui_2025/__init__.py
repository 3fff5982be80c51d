"""chat-ui from 0.9.6 on: what people install today."""

# The captures chat-ui-main-2026-08 and chat-ui-0.10 are of such servers.
