"""Draw images and plots from arrays; each function writes one PNG or returns pixels.

    pixels = maps.overlay(image, values, signed=False)          # uint8 [h, w, 3]
    curves.write_learning_curves("curves.png", records.read_log(workdir))
    evaluation.write_confusion_matrix("confusion.png", confusion, class_names)

All plots are opened and saved by `canvas`, which neither needs a display nor changes
the Matplotlib backend of the program that imports this package.
"""
