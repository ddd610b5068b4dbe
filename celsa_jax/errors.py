"""The one exception for what a user can mend."""


class InputError(Exception):
    """Bad input: a file, a row, a field or a flag.

    The message is one line that names what is wrong, where, and what to do; the programs in
    `experiments/` print it without a traceback and exit with status 1. What cannot be printed,
    a line break in the name of a column for instance, is shown as its escape.
    """

    def __init__(self, message: str):
        super().__init__("".join(c if c.isprintable() else ascii(c)[1:-1] for c in message))


def one_line(error: object) -> str:
    """The text of an error on one line, cut where it is long."""
    text = " ".join(str(error).split())
    return text if len(text) <= 200 else text[:200] + "..."
