"""The one exception for what a user can mend."""


class InputError(ValueError):
    """Bad input: a file, a row, a field or a flag.

    The message is one line that names what is wrong, where, and what to do; the programs in
    `experiments/` print it without a traceback and exit with status 1.
    """
