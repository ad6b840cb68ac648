"""Backward rules: the same network with other derivatives.

    from seeflower_jax.attribution import rules

    guided_network = rules.with_rules(network, rules.Guided())
    lrp_network = rules.with_rules(network, rules.LRP(rules.gamma(0.25)))

`interpreter` evaluates the jaxpr of a network by rules. `activations` (guided
backpropagation, deconvnet), `deep_lift`, `lrp` and `full_gradient` are rules. `graph`,
`operations` and `jaxprs` find out what the primitives of a jaxpr do.
`docs/backward_rules.md` has a table of what each rule does with each primitive.

Example:
    >>> guided_network = with_rules(network, Guided())
    >>> logits, endpoints = guided_network(images)
"""

from seeflower_jax.attribution.rules.activations import Deconvnet, Guided
from seeflower_jax.attribution.rules.deep_lift import DeepLift
from seeflower_jax.attribution.rules.interpreter import Rules, with_rules
from seeflower_jax.attribution.rules.layer_rules import (
    alpha_beta,
    by_depth,
    epsilon,
    gamma,
)
from seeflower_jax.attribution.rules.lrp import LRP

__all__ = [
    "LRP",
    "DeepLift",
    "Deconvnet",
    "Guided",
    "Rules",
    "alpha_beta",
    "by_depth",
    "epsilon",
    "gamma",
    "with_rules",
]
