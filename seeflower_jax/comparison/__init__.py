"""Comparison of this package with other frameworks: outputs and speed.

Only this room and the adapters of `attribution` import Keras, PyTorch, captum and
Equinox. The extra `peers` installs them.

| module | what it compares |
|---|---|
| `parity` | every block of the networks with Keras and torchvision |
| `training_speed` | images/s of inference and fine-tuning with Keras and PyTorch |
| `attribution_parity` | maps of each attribution method with captum and equations |
| `attribution_speed` | maps/s and memory of attribution methods with captum |
| `five_networks` | a figure: maps of networks of four frameworks |
| `transformers` | maps of attention with equations in PyTorch |
| `references`, `torch_networks`, `vgg_ports`, `pairs` | networks in other frameworks |
| `captum_reference`, `captum_references`, `formula_references` | methods in PyTorch |
| `squares` | the images that are compared |
| `timing` | time and memory, each measured in a process of its own |
"""
