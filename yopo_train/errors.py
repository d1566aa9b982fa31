"""The one error that users are meant to read."""


class UserError(ValueError):
    """Bad input: one line that names the culprit, what was found and what was expected.

    The command line prints it as ``error: <message>`` without a traceback and exits with code 2.
    """


def first_line(error: BaseException) -> str:
    """What a library's error says, in one line; its kind where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
