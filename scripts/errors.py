"""Describe in one line what went wrong.

raise ValueError(errors.describe(error)) from error
"""


def describe(error: BaseException) -> str:
    """Return the message of an error, with its type where the message needs it."""
    message = str(error)
    unclear = LookupError | TypeError | AttributeError | NameError
    if not message or isinstance(error, unclear):
        return f"{type(error).__name__}: {message}".removesuffix(": ")
    return message


def describe_flags(error: Exception) -> str:
    """Return in one line why the flags of a command line cannot be parsed."""
    if isinstance(error, KeyError | AttributeError):  # Raised for --config.KEY=VALUE.
        while isinstance(error.args[0], Exception):
            error = error.args[0]
        message = f"unknown config key {'; '.join(error.args[0].splitlines())}"
    else:
        message = describe(error)
    return " ".join(message.split())
