r"""Escape text from users, such as class names and file names, for drawing.

    printable("rose\x07")               # 'rose\\x07'
    file_stem("rose/dog rose", limit=100)

Names of classes come from the names of folders, which may hold any character.
"""

import re
import textwrap

# Control characters and lone surrogates, which XML forbids and fonts lack, line breaks,
# and marks that reverse the direction of the text after them.
_UNPRINTABLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)


def printable(text: str) -> str:
    r"""Return a text in which characters that cannot be drawn are escaped.

    Example:
      >>> printable("a\nb")
      'a\\nb'
    """
    return _UNPRINTABLE.sub(
        lambda match: match[0].encode("unicode_escape").decode(), text
    )


def wrapped(text: str, width: int) -> str:
    r"""Return a printable text in lines of at most `width` characters.

    Example:
      >>> wrapped("a long_name_of_a\x07 class\nof two", width=12)
      'a long_name_\nof_a\\x07\nclass\nof two'
    """
    lines = map(printable, text.split("\n"))
    return "\n".join(textwrap.fill(line, width) for line in lines)


def shortened(text: str, limit: int) -> str:
    """Return a printable text of at most `limit` characters; "…" replaces the rest.

    Example:
      >>> shortened("a long name", limit=7)
      'a long…'
    """
    text = printable(text)
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def file_stem(text: str, limit: int = 150) -> str:
    """Return a text that is safe in a file name: letters, digits, `_` and `-`.

    Args:
      text: any text.
      limit: maximum length in bytes. File systems allow 255 bytes for a whole name.

    Example:
      >>> file_stem("rose/dog rose")
      'rose_dog_rose'
    """
    stem = re.sub(r"[^\w-]+", "_", text)
    return stem.encode("utf-8")[:limit].decode("utf-8", "ignore")
