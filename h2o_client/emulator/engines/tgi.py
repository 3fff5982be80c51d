"""A text-generation-inference server, asked and passed on as the real service did.

The whole request body goes to the URL as it was given, the prompt in the place of
the inputs; the client's content type goes with it, and
nothing else of the client's.  Status, headers and every byte of the body come
back, comments and errors included.
"""
# 08_parameters_upstream

from __future__ import annotations

import json

from h2o_client.emulator.engine import GenerationRequest, RawEngine, RawResponse
from h2o_client.emulator.engines.http import HttpEngine


class TgiEngine(HttpEngine, RawEngine):
    """A text-generation-inference server.

    Args:
        url: Its address; requests are posted to it as it is, so that it usually ends
            in ``/``. It may have a user and a password.
    """

    async def respond(self, request: GenerationRequest) -> RawResponse:
        """Post the request and pass the response on."""
        text = json.dumps(request.body, ensure_ascii=False, separators=(",", ":"))
        # As JavaScript writes them: half a character is escaped, all others are not.
        content = text.encode(errors="backslashreplace")
        headers = {"content-type": request.content_type}
        opened = await self.send("POST", self.url, content, headers)
        return RawResponse(opened.status, opened.headers, opened.body)
