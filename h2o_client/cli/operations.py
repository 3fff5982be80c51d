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
        run: performs it with the conversation and the argument, which can be "" in a chat session;
            returns the result.
        note: the message of a chat session about the result; "" to show the result itself.
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
        summary="Give one a title.",
        help="Give it a TITLE of 1 to 100 characters.",
        slash="/title",
        meaning="TEXT: name the conversation; alone: let the model name it",
        argument="TITLE",
        run=_rename,
        note="it is called “{}”",
    ),
    Operation(
        name="share",
        summary="Make a page of one and show its URL.",
        help="Make a page of it as it is now, and show its URL: anyone with the URL can read it.",
        slash="/share",
        meaning="make a page of it that anyone with its URL can read",
        argument="",
        run=lambda conversation, _: conversation.share(),
    ),
)
