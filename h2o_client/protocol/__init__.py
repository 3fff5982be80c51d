"""The sans-IO core: it makes every decision of the client, and does no I/O.

It decides which request comes next, what a status means, what a `data:` line says, when to retry,
and what to tell the server when the caller stops early. It does not open sockets, read clocks or
generate random numbers: the shells do that for it.
"""
