"""The one error that users are meant to read."""


class UserError(ValueError):
    """Bad input: one line that names the culprit, what was found and what was expected.

    The command line prints it as ``error: <message>`` without a traceback and exits with code 2.
    """
