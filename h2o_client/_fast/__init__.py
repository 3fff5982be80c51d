r"""The transport for `transport="fast"`: less work for each token of a stream.

Theory of operation
===================
Per token, httpx spends its time in three places: on asyncio in anyio's socket stream, in h11,
which steps through every small HTTP chunk, and in nested generators. Only the *body* of a response
arrives in many pieces, so time can be saved only there. Everything else is left to httpcore, on
which httpx is based: the pool and its limits, keep-alive, proxies, TLS, and the heads of requests
and responses.

httpcore accepts a custom network (`network_backend=`), and exposes the network stream of each
response (`extensions["network_stream"]`). Only these two features are used:

* `network.BodyStream` wraps another network stream. The data that it gives to httpcore ends with
  the head of a response; it keeps any bytes read beyond that. That alone changes nothing, as TCP
  reads can end anywhere.
* If the body is chunked, `transport.Body` reads it from that stream itself, with
  `framing.Dechunker`. httpcore and h11 do not see it.
* At the end of the body it gives httpcore an empty chunked body, `0\r\n\r\n`. httpcore then
  considers the response complete, and returns the connection to its pool.
* On asyncio `asyncio_network` replaces anyio's sockets.

Anything unexpected (another framing, a head that cannot be separated from its body, a HEAD request)
is left to httpcore. If a body is not read to its end, or is malformed, its connection is closed, as
httpcore has not seen its end. Only public APIs of other packages are used, and `framing` limits how
much data a server can make the client keep.
"""

from h2o_client._fast._async.transport import AsyncFastTransport
from h2o_client._fast._sync.transport import FastTransport

__all__ = ["AsyncFastTransport", "FastTransport"]
