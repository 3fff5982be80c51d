"""The secrets of a test, and the check that nothing shows them."""

PROMPT = "my darkest confession"
ANSWER = "absolved"
PASSWORD = "hunter2"
TOKEN = "t0ken-t0ken"
SESSION = "99999999-8888-4777-8666-555555555555"
TITLE = "a secret title"
SECRETS = (PROMPT, ANSWER, PASSWORD, TOKEN, SESSION, TITLE, "Basic ", "Bearer ")


def check_kept(*things: object) -> None:
    """Check that no object shows a secret in its `str` or `repr`."""
    for thing in things:
        for shown in (str(thing), repr(thing)):
            for secret in SECRETS:
                assert secret not in shown, shown
