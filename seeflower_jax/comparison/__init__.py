"""The networks here beside other frameworks': what they compute, and how fast.

Only this room imports Keras, PyTorch and captum, which the extras `dev` and `benchmark`
install.
"""
