"""The sans-IO core: every decision of the client, and no I/O.

It knows which request comes next, what a status means, what a `data:` line says, when to try
again and what to tell the server when the caller walks away. It does not open sockets, read clocks
or draw random numbers: the shells do that for it.
"""
