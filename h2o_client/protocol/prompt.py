"""Flattens messages into the single prompt that the service accepts.

The service's message request has a single string, `inputs`. One message is sent as its content;
several are flattened into `Role: content` lines that end where the answer begins. Anything that
is not a message is rejected here, before a request is built.
"""

from collections.abc import Mapping, Sequence

from h2o_client.types import Message, Messages

_ROLES = ("user", "assistant", "system")

JS_SPACE = (
    "\t\n\v\f\r \xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007"
    "\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000\ufeff"
)
"""ECMAScript's WhiteSpace and LineTerminator, which the server's trim() and trimEnd() remove."""


def build_prompt(messages: Messages) -> str:
    """Flatten messages into a prompt.

    Args:
        messages: the prompt itself, or a sequence of messages: mappings with the keys `role` and
            `content`, or `Message` objects.

    Returns:
        The content of a single message, unchanged. Several messages as lines of the form
        `Role: content`, with the role capitalised, and `Assistant:` at the end.

    Raises:
        TypeError: an item is not a message, or a role or content is not a string.
        ValueError: `messages` is empty, a message lacks a key, its role is not one of "user",
            "assistant" and "system", the prompt is blank, or it cannot be encoded as UTF-8.
    """
    if isinstance(messages, str):
        prompt = messages
    else:
        pairs = [_pair(message, index) for index, message in enumerate(_sequence(messages))]
        if not pairs:
            raise ValueError("messages must not be empty")
        if len(pairs) == 1:
            prompt = pairs[0][1]
        else:
            lines = [f"{role.capitalize()}: {content}" for role, content in pairs]
            prompt = "\n".join([*lines, "Assistant:"])
    return check_prompt(prompt)


def split_preprompt(messages: Messages) -> tuple[str | None, Messages]:
    """Split messages into the system messages at the beginning and the others.

    Args:
        messages: see `build_prompt()`, which has checked them.

    Returns:
        The text of the system messages at the beginning, or None, and the other messages. If all
        are system messages, they are not split.
    """
    if isinstance(messages, str):
        return None, messages
    pairs = [_pair(message, index) for index, message in enumerate(messages)]
    count = next((n for n, (role, _) in enumerate(pairs) if role != "system"), 0)
    if not count:
        return None, messages
    return "\n\n".join(content for _, content in pairs[:count]), messages[count:]


def check_prompt(prompt: str) -> str:
    """Return the prompt if the service accepts it.

    Raises:
        ValueError: it is blank, which the service answers with 500, or cannot be encoded as UTF-8.
    """
    # 04_message_errors: the answer to a blank prompt.
    if not prompt.strip(JS_SPACE):
        raise ValueError("the prompt must not be blank: the service rejects empty messages")
    if any("\ud800" <= char <= "\udfff" for char in prompt):
        raise ValueError("the prompt contains an unpaired surrogate, which is not a character")
    return prompt


def _sequence(messages: object) -> Sequence[object]:
    if isinstance(messages, Message | Mapping):
        raise TypeError("messages is a single message: put it in a list")
    if not isinstance(messages, Sequence) or isinstance(messages, bytes | bytearray):
        raise TypeError(
            f"messages must be a string or a sequence of messages, not {type(messages).__name__}"
        )
    return messages


def _pair(message: object, index: int) -> tuple[str, str]:
    """Return a message's role and content."""
    if isinstance(message, Message):
        fields: Mapping[str, object] = {"role": message.role, "content": message.content}
    elif isinstance(message, Mapping):
        fields = message
    else:
        raise TypeError(
            f"messages[{index}] must be a mapping with role and content, or a Message, "
            f"not {type(message).__name__}"
        )
    values: list[str] = []
    for key in ("role", "content"):
        if key not in fields:
            raise ValueError(f"messages[{index}] lacks the key {key!r}")
        value = fields[key]
        if not isinstance(value, str):
            raise TypeError(
                f"messages[{index}][{key!r}] must be a string, not {type(value).__name__}"
            )
        values.append(value)
    role, content = values
    if role not in _ROLES:
        raise ValueError(
            f"messages[{index}]['role'] must be 'user', 'assistant' or 'system', not {role[:40]!r}"
        )
    return role, content
