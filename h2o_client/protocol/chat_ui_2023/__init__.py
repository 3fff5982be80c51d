"""The protocol of chat-ui 0.3 to 0.6, which gpt-gm.h2o.ai speaks.

The flows use only `Dialect2023`; each of the other modules is a part of it.
"""
