"""OpenAI's API as a face: the models, and chat completions with and without streaming."""
