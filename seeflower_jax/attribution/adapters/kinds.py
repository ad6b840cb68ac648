"""The kinds of objects that adapters take.

check_kind("from_nnx", model, nnx.Module)
"""

from typing import Any


def check_kind(adapter: str, model: Any, kind: type) -> None:
    """Check that a model is an object of the framework's class of modules.

    Args:
      adapter: name of the adapter, for the message.
      model: the argument of the adapter.
      kind: the class of modules.

    Raises:
      TypeError: the model is of another kind, or is a class instead of an object.

    Example:
      >>> check_kind("from_words", "a model", str)
    """
    if isinstance(model, kind):
        return
    given = repr(model) if isinstance(model, type) else f"an object of {type(model)}"
    raise TypeError(
        f"{adapter} takes an object of {kind}, got {given}; there is an adapter for "
        "each framework, and from_function for other functions"
    )
