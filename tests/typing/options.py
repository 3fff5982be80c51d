# pyright: reportUnnecessaryTypeIgnoreComment=true
"""Generation options: mypy and pyright reject misspelt names and wrong types.

Checked, never run: both report an ignore comment that suppresses nothing.
"""

from h2o_client import AsyncConversation, AsyncH2oClient, Conversation, GenerationOptions, H2oClient


def every_option() -> GenerationOptions:
    return {
        "temperature": 0.4,
        "truncate": 2048,
        "max_new_tokens": 1024,
        "do_sample": True,
        "repetition_penalty": 1.2,
        "return_full_text": False,
        "top_p": 0.9,
        "top_k": 50,
        "typical_p": 0.9,
        "seed": 7,
        "stop": ["###"],
        "watermark": False,
        "details": True,
    }


def sync(client: H2oClient, talk: Conversation, options: GenerationOptions) -> None:
    client.chat("Hi", **options)
    client.chat("Hi", temperature=1, top_p=0.9, top_k=50, typical_p=0.9, seed=7, stop=("###",))
    client.chat("Hi", temperature=None, watermark=True, details=False, parameters={"best_of": 2})
    client.chat("Hi", temprature=0.2)  # type: ignore[call-arg]
    client.chat("Hi", best_of=2)  # type: ignore[call-arg]
    client.chat("Hi", seed="7")  # type: ignore[arg-type]
    client.chat("Hi", stop=7)  # type: ignore[arg-type]
    client.stream("Hi", temprature=0.2)  # type: ignore[call-arg]
    client.stream("Hi", top_k=0.5)  # type: ignore[arg-type]
    client.batch(["Hi"], retries=3, model="m", **options)
    client.batch(["Hi"], temprature=0.2)  # type: ignore[call-arg]
    talk.send("Hi", **options)
    talk.send("Hi", temprature=0.2)  # type: ignore[call-arg]
    talk.stream("Hi", temprature=0.2)  # type: ignore[call-arg]
    talk.retry(temprature=0.2)  # type: ignore[call-arg]
    talk.stream_retry(temprature=0.2)  # type: ignore[call-arg]


async def asynchronous(
    client: AsyncH2oClient, talk: AsyncConversation, options: GenerationOptions
) -> None:
    await client.chat("Hi", **options)
    await client.chat("Hi", temprature=0.2)  # type: ignore[call-arg]
    client.stream("Hi", temprature=0.2)  # type: ignore[call-arg]
    client.batch(["Hi"], temprature=0.2)  # type: ignore[call-arg]
    await talk.send("Hi", temprature=0.2)  # type: ignore[call-arg]
    talk.stream("Hi", temprature=0.2)  # type: ignore[call-arg]
    await talk.retry(temprature=0.2)  # type: ignore[call-arg]
    talk.stream_retry(temprature=0.2)  # type: ignore[call-arg]
