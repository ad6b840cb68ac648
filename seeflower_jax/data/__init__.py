"""Turn images into batches: sources, pixel cache, View, Augmentation, loader.

source = sources.load_source(DataSettings(source="folder", dir="photos"))
dataset = Dataset(source, cache.open_cache(source, shortest_side=320))
batch = dataset.reader(dataset.indices("train")[:32])   # canvas and sizes
images = view(batch["canvas"], batch["sizes"])          # the input of a network
"""
