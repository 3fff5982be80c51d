"""The protocol of chat-ui 0.3 to 0.6, which gpt-gm.h2o.ai speaks.

`Dialect2023` is all that the flows know of it; each other module is one part of it.
"""
