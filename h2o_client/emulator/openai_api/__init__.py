"""OpenAI's API as a face: the models, and chat completions, streamed or whole."""
