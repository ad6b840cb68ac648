"""Use a trained network, wherever it is from.

network = load.load("runs/inception_seed0")      # a run, an export, a weight file
network.predict("photos/")                       # a list of `Prediction`
network.explain("rose.jpg").overlay().save("cam.png")
"""
