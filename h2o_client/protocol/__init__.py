"""The sans-IO core: every decision of the client, and no I/O.

It knows which request comes next, what a status means, what a `data:` line says, when to try
again and what to tell the server when the caller walks away. It opens no socket, reads no clock
and draws no random number: those come in from the shells, which perform what it asks.
"""
