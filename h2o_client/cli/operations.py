"""The operations on a conversation, for subcommands and for commands in `chat`.

Each is defined once: `h2o-client conversations` and the chat session both offer it.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from h2o_client import Conversation


class Operation(NamedTuple):
    """An operation on a conversation.

    Attributes:
        name: the subcommand of `h2o-client conversations`.
        summary: a description for the list of subcommands.
        help: the text for the subcommand's own help.
        slash: the command in a chat session.
        meaning: a description of that command and its argument.
        argument: the name of the subcommand's required argument, or "".
        run: takes the conversation and the argument, which can be "" in a chat session; returns
            the result.
        note: the message in a chat session about the result; "" to show the result itself.
    """

    name: str
    summary: str
    help: str
    slash: str
    meaning: str
    argument: str
    run: "Callable[[Conversation, str], str]"
    note: str = ""


def _rename(conversation: "Conversation", title: str) -> str:
    if not title:
        return conversation.summarize().strip()
    conversation.rename(title)
    return title


OPERATIONS = (
    Operation(
        name="rename",
        summary="Rename a conversation.",
        help="Rename a conversation. TITLE has 1 to 100 characters.",
        slash="/title",
        meaning="TEXT: rename the conversation; alone: let the model choose a title",
        argument="TITLE",
        run=_rename,
        note="renamed to “{}”",
    ),
    Operation(
        name="share",
        summary="Publish a conversation and show its URL.",
        help="Publish the current messages, and show the URL: anyone with it can read them.",
        slash="/share",
        meaning="publish the conversation; anyone with the URL can read it",
        argument="",
        run=lambda conversation, _: conversation.share(),
    ),
)
