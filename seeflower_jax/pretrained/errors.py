"""Define the error for weight files that do not hold what is expected."""

import os

_MAX_LISTED = 40


class WeightFileError(ValueError):
    """A weight file does not hold what is expected."""

    @classmethod
    def of(
        cls, path: str | os.PathLike, expected: str, errors: list[str]
    ) -> "WeightFileError":
        """Return one error that lists at most 40 defects of a file, one per line."""
        more = len(errors) - _MAX_LISTED
        listed = errors[:_MAX_LISTED] + [f"and {more} more"] * (more > 0)
        return cls(f"{path} does not hold {expected}:\n  " + "\n  ".join(listed))
