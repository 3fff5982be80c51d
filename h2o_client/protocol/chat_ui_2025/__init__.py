"""The protocol of chat-ui 0.9.6 and later, the versions that people install today."""

# The captures chat-ui-main-2026-08 and chat-ui-0.10 are from such servers.
