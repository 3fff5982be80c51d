"""OpenAI's client with a chat-ui server, through a bridge in the same program.

For other programs, `h2o-client serve --api openai --upstream URL` runs the bridge. Install `openai`
and the extra `emulator`, and run this against the emulator (`h2o-client serve`):

    H2O_CHAT_URL=http://127.0.0.1:8000 python examples/openai_bridge.py
"""

import sys

from openai import APIError, OpenAI

from h2o_client.bridge import upstream
from h2o_client.emulator import Emulator


def main() -> None:
    """Show the models, and an answer as it arrives."""
    with (
        Emulator(dialect="openai", models=upstream()) as bridge,
        OpenAI(base_url=f"{bridge.url}/v1", api_key="any") as client,
    ):
        models = [model.id for model in client.models.list()]
        print("Models:", *models)
        try:
            with client.chat.completions.create(
                model=models[0], messages=[{"role": "user", "content": "Hello!"}], stream=True
            ) as stream:
                for event in stream:
                    print(event.choices[0].delta.content or "", end="", flush=True)
            print()
        except APIError as error:
            sys.exit(f"\n{error}")


if __name__ == "__main__":
    main()
