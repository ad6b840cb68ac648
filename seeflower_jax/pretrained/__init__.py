"""Weight files of Keras and torchvision -> variables of the networks, and back.

| module | what it does |
|---|---|
| `loading` | loads a network with the variables of a weight file: the entry point |
| `published` | lists the published weight files, with their addresses and hashes |
| `readers` | chooses the reader of a file by its suffix; accepts new readers |
| `content` | recognises the kind of a file, and refuses impossible sizes |
| `keras_h5`, `keras_archive`, `hdf5` | read and write files of Keras |
| `torch_files`, `torch_state` | read and write files with torchvision's names |
| `preprocessing` | recognises or assumes the preprocessing that weights expect |
| `converted` | reads and writes the folders of `scripts.convert_weights` |
| `spec_inference` | infers width and head from the shapes of parameters |
| `merge` | completes loaded with initialised variables, and checks them |
| `writers` | writes variables in any of the formats |
| `imagenet` | lists the names of ImageNet's classes |
"""
