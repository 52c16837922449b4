"""The one error that is the user's to mend."""


class InputError(ValueError):
    """Something the user gave cannot be used.

    The message says what was wrong, what arrived and what is allowed. Commands print it alone,
    without a traceback, and exit with code 2.
    """
