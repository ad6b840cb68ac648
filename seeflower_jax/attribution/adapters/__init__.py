"""Adapters: networks of other frameworks as network functions.

    network = attr.from_linen(module, variables)
    maps = attr.grad_cam(network, images, targets, layer="block3/conv")

An adapter names the outputs of the modules while JAX traces the network (`names`). The
network function reads the named values from the trace, and adds taps to them (`taps`).
An adapter therefore needs no change to the network and does not modify the user's
objects.

No module imports its framework until its adapter is called.
"""
