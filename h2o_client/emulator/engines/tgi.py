"""A text-generation-inference server, used in the same way as by the real service.

The client's request body is sent to the URL, with the prompt as its inputs. Of the client's
headers, only the content type is sent. Status, headers and every byte of the body are returned,
including comments and errors.
"""
# 08_parameters_upstream

from __future__ import annotations

import json

from h2o_client.emulator.engine import GenerationRequest, RawEngine, RawResponse
from h2o_client.emulator.engines.http import HttpEngine


class TgiEngine(HttpEngine, RawEngine):
    """A text-generation-inference server.

    Args:
        url: Its URL; requests are posted to exactly this URL, so it usually ends in ``/``. It may
            contain a user and a password.
    """

    async def respond(self, request: GenerationRequest) -> RawResponse:
        """Post the request and forward the response."""
        text = json.dumps(request.body, ensure_ascii=False, separators=(",", ":"))
        # As JavaScript does, escape only unpaired surrogates.
        content = text.encode(errors="backslashreplace")
        headers = {"content-type": request.content_type}
        return await self.send("POST", self.url, content, headers)
