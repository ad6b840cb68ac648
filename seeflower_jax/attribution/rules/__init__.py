"""Backward rules: the same network with other derivatives.

    guided_network = with_rules(network, Guided())

`interpreter` evaluates the jaxpr of a network by rules. `activations` (guided
backpropagation, deconvnet), `deep_lift` and `lrp` are rules. `graph`, `operations` and
`jaxprs` find out what the primitives of a jaxpr do.
"""
