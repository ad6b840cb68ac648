"""Weight files of Keras and torchvision -> variables of the networks, and back.

| module | what it does |
|---|---|
| `loading` | loads a network with the variables of a weight file: the entry point |
| `published` | lists the published weight files, with their addresses and hashes |
| `readers` | chooses the reader of a file by its suffix; accepts new readers |
| `keras_h5`, `keras_archive`, `torch_state` | read and write one format each |
| `converted` | reads and writes the folders of `scripts.convert_weights` |
| `spec_inference` | infers width and head from the shapes of parameters |
| `merge` | completes loaded variables with initialised ones, and checks both |
| `writers` | writes variables in any of the formats |
| `imagenet` | lists the names of ImageNet's classes |
"""
