"""What is raised for weight files that are not what they should be."""

_MAX_LISTED = 40


class WeightFileError(ValueError):
    """A weight file is not what it should be."""

    @classmethod
    def of(cls, path, expected: str, errors: list[str]) -> "WeightFileError":
        """One error for all that is wrong with a file, by lines, at most 40."""
        more = len(errors) - _MAX_LISTED
        listed = errors[:_MAX_LISTED] + [f"and {more} more"] * (more > 0)
        return cls(f"{path} does not hold {expected}:\n  " + "\n  ".join(listed))
