"""Decide which parameters a stage trains, and how fast.

    rules = (("head/.*", 1.0), ("backbone/.*", None))
    trainable, frozen = split(params, rules)
    params = join(trainable, frozen)

A rule is a regular expression and a factor on the learning rate. The expression matches
the whole name of a parameter, such as `head/logits/kernel`. Every parameter matches
exactly one rule. The factor None freezes parameters. Frozen parameters are not an
argument of the differentiated function, and the optimizer does not receive them. They
have no gradient, no optimizer memory and no weight decay, and do not count in the
clipping norm.
"""

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from flax import traverse_util

_MAX_LISTED = 4  # parameters in an error
Rules = Sequence[tuple[str, float | None]]


def assign(rules: Rules, names: Iterable[str]) -> dict[str, int]:
    """Return the index of the rule that each parameter matches.

    Raises:
      ValueError: if no rule or more than one rule matches a parameter; the message
        lists some of them.
    """
    errors, assignment = [], {}
    for name in names:
        matches = [i for i, (rule, _) in enumerate(rules) if re.fullmatch(rule, name)]
        if len(matches) == 1:
            assignment[name] = matches[0]
        else:
            errors.append(f"{name}: {[rules[i][0] for i in matches] or 'no rule'}")
    if errors:
        more = len(errors) - _MAX_LISTED
        listed = errors[:_MAX_LISTED] + [f"and {more} more"] * (more > 0)
        raise ValueError(
            "each parameter must match exactly one partition rule; these do not: "
            + "; ".join(listed)
        )
    return assignment


def split(params: Mapping, rules: Rules) -> tuple[dict, dict]:
    """Split parameters into (trainable, frozen), flat dicts by name.

    Raises:
      ValueError: if `assign` fails, a rule matches no parameter, a factor is not
        positive, or no parameter is trainable.
    """
    flat = traverse_util.flatten_dict(params, sep="/")
    assignment = assign(rules, flat)
    for i, (rule, factor) in enumerate(rules):
        if i not in assignment.values():
            raise ValueError(f"partition rule {rule!r} matches no parameter")
        if factor is not None and factor <= 0:
            raise ValueError(
                f"partition rule {rule!r} has factor {factor}; expected above 0, or "
                "None to freeze"
            )
    trainable, frozen = {}, {}
    for name, value in flat.items():
        part = frozen if rules[assignment[name]][1] is None else trainable
        part[name] = value
    if not trainable:
        raise ValueError(f"partition rules {list(rules)} leave nothing to train")
    return trainable, frozen


def join(trainable: Mapping, frozen: Mapping) -> dict:
    """Join the results of `split` into the tree of all parameters."""
    return traverse_util.unflatten_dict({**trainable, **frozen}, sep="/")


def describe(trainable: Mapping, frozen: Mapping) -> str:
    """Format the numbers of trained and frozen parameters as a table, by block.

    Args:
      trainable, frozen: the results of `split`.

    Returns:
      A line for each block, such as `head/logits` or `backbone/block5_conv1`, and a
      line of sums. Consecutive blocks of one kind share a line.
    """
    counts: dict[str, list[int]] = {}
    for column, part in enumerate((trainable, frozen)):
        for name, value in part.items():
            block = "/".join(name.split("/")[:2])
            counts.setdefault(block, [0, 0])[column] += int(np.prod(value.shape))

    def natural(block: str) -> list:
        """Return a key that sorts mixed9 before mixed10."""
        parts = re.split(r"(\d+)", block)
        return [int(part) if part.isdigit() else part for part in parts]

    def kind(block: str) -> tuple:
        """Return a block's part, and whether it has trained and frozen parameters."""
        return block.split("/")[0], *(count > 0 for count in counts[block])

    rows: list[tuple[str, int, int]] = []
    for _, group in itertools.groupby(sorted(counts, key=natural), kind):
        first, *others = blocks = list(group)
        label = f"{first} ... {others[-1]}" if others else first
        trained_sum, frozen_sum = (sum(counts[b][i] for b in blocks) for i in (0, 1))
        rows.append((label, trained_sum, frozen_sum))
    rows.append(("all", sum(row[1] for row in rows), sum(row[2] for row in rows)))
    width = max(len(label) for label in ["parameters", *(row[0] for row in rows)])
    lines = [f"{'parameters':{width}}{'trained':>14}{'frozen':>14}"]
    lines += [f"{label:{width}}{a:>14,}{b:>14,}" for label, a, b in rows]
    return "\n".join(lines)
