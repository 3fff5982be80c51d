r"""The transport for `transport="fast"`: less work for each token of a stream.

Theory of operation
===================
Per token, httpx spends its time in three places: on asyncio in anyio's socket stream, in h11,
which steps through every small HTTP chunk, and in generators that stand one within another. Only
the *body* of a response comes in many pieces, so only there is anything to gain; the rest is left
to httpcore, on which httpx itself stands: the pool and its limits, keep-alive, proxies, TLS, the
heads of requests and responses.

httpcore lets its network be chosen (`network_backend=`), and shows the network stream of each
response (`extensions["network_stream"]`). No more than that is used here:

* `network.BodyStream` is a network stream over another that does the work. What it hands to
  httpcore ends where the head of a response ends; what was read beyond stays with it. That alone
  changes nothing: where a read ends is TCP's own affair.
* Where the response is one whose body comes in chunks, `transport.Body` reads the body from that
  stream itself, with `framing.Dechunker`. httpcore and h11 do not see it.
* At the end of the body it gives httpcore an empty chunked body, `0\r\n\r\n`. httpcore then takes
  the response for ended, and the connection back into its pool.
* On asyncio `asyncio_network` takes the place of anyio's sockets.

Whatever is not exactly as expected (another framing, a head that cannot be told from its body, a
request by HEAD) is left to httpcore, as ever. A body that is left before its end, or breaks the
rules, takes its connection with it, as ever: httpcore has not seen its end. Nothing private of
another package is used, and what the server may make a client keep is bounded in `framing`.
"""

from h2o_client._fast._async.transport import AsyncFastTransport
from h2o_client._fast._sync.transport import FastTransport

__all__ = ["AsyncFastTransport", "FastTransport"]
