"""Which optimizer moves which parameter.

    rules = (("head/.*", 1.0), ("backbone/.*", None))
    trainable, frozen = split(params, rules)
    optimizer = make_optimizer(stage_config, rules, schedule)
    opt_state = optimizer.init(trainable)

A rule is a regular expression on the whole name of a parameter (`head/logits/kernel`)
and a factor on the learning rate, or None. Every parameter matches exactly one rule.
None means frozen: such parameters are no argument of the differentiated function and
unknown to the optimizer, so they get no gradient, no optimizer memory and no weight
decay, and do not count in the clipping norm.
"""

import re
from collections.abc import Iterable, Mapping, Sequence

import jax
import optax
from flax import traverse_util

Rules = Sequence[tuple[str, float | None]]


def assign(rules: Rules, names: Iterable[str]) -> dict[str, int]:
    """The index of the rule that each parameter matches.

    Raises:
      ValueError: lists every parameter that no rule or more than one rule matches.
    """
    errors, assignment = [], {}
    for name in names:
        matches = [i for i, (rule, _) in enumerate(rules) if re.fullmatch(rule, name)]
        if len(matches) == 1:
            assignment[name] = matches[0]
        else:
            errors.append(f"{name}: {[rules[i][0] for i in matches] or 'no rule'}")
    if errors:
        raise ValueError(
            "each parameter must match exactly one partition rule; these do not:\n  "
            + "\n  ".join(errors)
        )
    return assignment


def split(params: Mapping, rules: Rules) -> tuple[dict, dict]:
    """Parameters -> (trainable, frozen), flat dicts by name.

    Raises:
      ValueError: as `assign`; for a rule that matches nothing, for a factor that is not
        positive, and if nothing is trainable.
    """
    flat = traverse_util.flatten_dict(params, sep="/")
    assignment = assign(rules, flat)
    for i, (rule, factor) in enumerate(rules):
        if i not in assignment.values():
            raise ValueError(f"partition rule {rule!r} matches no parameter")
        if factor is not None and factor <= 0:
            raise ValueError(
                f"partition rule {rule!r} has factor {factor}; use None to freeze"
            )
    trainable, frozen = {}, {}
    for name, value in flat.items():
        part = frozen if rules[assignment[name]][1] is None else trainable
        part[name] = value
    if not trainable:
        raise ValueError(f"partition rules {list(rules)} leave nothing to train")
    return trainable, frozen


def join(trainable: Mapping, frozen: Mapping) -> dict:
    """The inverse of `split`."""
    return traverse_util.unflatten_dict({**trainable, **frozen}, sep="/")


def make_optimizer(
    stage, rules: Rules, schedule: optax.Schedule
) -> optax.GradientTransformation:
    """The optimizer of a stage, for the flat dict of its trainable parameters.

    Args:
      stage: config with `optimizer` ('adam', 'rmsprop' or 'sgd'), `momentum` (of SGD,
        Nesterov's), `weight_decay` (decoupled; on kernels only) and `clip_norm` (0 is
        off).
      rules: partition rules.
      schedule: learning rate by step, before a rule's factor.

    Raises:
      ValueError: for an unknown optimizer.
    """

    def scaled(factor):
        return lambda step: factor * schedule(step)

    def kernels(params):
        return jax.tree.map(lambda value: value.ndim > 1, params)

    def moments():
        if stage.optimizer == "adam":
            return optax.scale_by_adam()
        if stage.optimizer == "sgd":
            return optax.trace(stage.momentum, nesterov=True)
        if stage.optimizer == "rmsprop":
            return optax.scale_by_rms(decay=0.9, eps=1e-7)
        raise ValueError(
            f"unknown optimizer {stage.optimizer!r}; known are 'adam', 'rmsprop', 'sgd'"
        )

    by_rule = {
        i: optax.chain(
            moments(),
            optax.add_decayed_weights(stage.weight_decay, mask=kernels),
            optax.scale_by_learning_rate(scaled(factor)),
        )
        for i, (_, factor) in enumerate(rules)
        if factor is not None
    }
    optimizer = optax.multi_transform(by_rule, lambda params: assign(rules, params))
    if stage.clip_norm:
        optimizer = optax.chain(optax.clip_by_global_norm(stage.clip_norm), optimizer)
    return optimizer
