"""Every key of a config, with its default.

    config = base.get_config()
    config.stages = ConfigDict({"head": base.get_stage(), ...})

The other files of configs/ change these values; the command line changes any of them,
`--config.eval.batch_size=16`. None stands for the network's own value.
"""

from ml_collections import ConfigDict, config_dict


def get_config() -> ConfigDict:
    """Return the config that the recipes start from; it has no stages."""
    config = ConfigDict()
    config.recipe = "best"  # for records
    config.seed = 0
    config.metric = "top1"  # what is best by validation; also mean_class_top1, loss

    config.model = ConfigDict()
    config.model.name = "inception_v3"  # or vgg16, vgg19, baseline, small
    config.model.dropout = 0.2  # rate, in the head
    config.model.dtype = "float32"  # of the computation; bfloat16 on a GPU
    config.model.pooling = config_dict.placeholder(str)  # or root_average, flatten, ...
    config.model.pooled = config_dict.placeholder(tuple)  # endpoints; () is the last
    config.model.hidden = config_dict.placeholder(tuple)  # widths of dense layers
    config.model.width = config_dict.placeholder(float)  # factor on all channels
    config.model.input_size = config_dict.placeholder(int)  # in pixels
    config.model.preprocess = config_dict.placeholder(str)  # or unit, tf, caffe, torch

    config.init = ConfigDict()
    config.init.weights = "imagenet"  # downloads Keras' file; or a path; '' is random
    config.init.head = "new"  # 'hidden' or 'all' takes dense layers from the file
    # The values in which a run before this one differs; its weights are then this
    # one's. {} trains none.
    config.init.pretraining = ConfigDict()

    config.data = ConfigDict()
    config.data.source = "oxford_flowers102"  # or folder, synthetic
    config.data.dir = ""  # '' downloads the official files
    config.data.split = "official"  # or trainval, reversed; of a folder 70/15/15, ...
    config.data.verify = True  # hashes of the label files, counts of the splits
    config.data.cache_dir = ""  # '' is ~/.cache/seeflower_jax
    config.data.shortest_side = 320  # of the decoded images, in pixels
    config.data.species = 16  # drawn flowers of the source 'synthetic'
    config.data.images_per_class = (10, 5, 25)  # for training, validation and test
    config.data.seed = 0  # of the drawing

    config.whitening = ConfigDict()
    config.whitening.enabled = False
    config.whitening.patch_size = 7  # in pixels, odd
    config.whitening.patches_per_image = 100
    config.whitening.epsilon = 0.01  # share of the mean eigenvalue

    # What the network sees of an image: in validation, prediction, attribution, export.
    config.eval = ConfigDict()
    config.eval.size = 320  # in pixels; 0 is the network's own
    config.eval.crop = 1.0  # the central square's share of the shortest side
    config.eval.keep_aspect = True  # False squashes the whole image to a square
    config.eval.batch_size = 32

    # Views whose logits are averaged for the result; others need no new training.
    config.test_time = ConfigDict()
    config.test_time.views = ((320, 1.0),)  # size and crop, as above
    config.test_time.hflip = True  # each also mirrored

    config.stage_order = ()  # of config.stages, the ones to run
    config.stages = ConfigDict()
    return config


def get_stage() -> ConfigDict:
    """Return a stage that trains a new head on a frozen network."""
    stage = ConfigDict()
    stage.epochs = 100
    stage.batch_size = 68  # over all devices
    stage.accum_steps = 1  # parts of a batch, one after the other, to save memory
    # A regular expression on parameter names and a factor on the learning rate; None
    # is frozen. Every parameter matches exactly one.
    stage.partition = (("head/.*", 1.0), ("backbone/.*", None))
    stage.optimizer = "adamw"  # any of optax's: sgd, rmsprop, lion, ...
    stage.optimizer_options = ()  # its arguments, (("b1", 0.8),)
    stage.learning_rate = 1e-3
    stage.schedule = "cosine"  # or constant
    stage.warmup_steps = 0
    stage.weight_decay = 1e-4  # on kernels
    stage.clip_norm = 0.0  # 0 is off
    stage.label_smoothing = 0.1
    stage.ema_decay = 0.0  # of the mean of the parameters; 0 is off
    stage.train_batch_stats = False  # True normalises batches by their own statistics
    stage.keep_batch_stats = False  # True does not store these statistics
    stage.validate_every = 5  # epochs
    # Validations without a gain of min_delta that end the stage; 0 is off.
    stage.early_stopping = ConfigDict({"patience": 0, "min_delta": 0.0})
    stage.augment = ConfigDict()
    stage.augment.enabled = False  # False trains on what evaluation sees
    stage.augment.size = 224  # of the images in training; 0 is the network's
    stage.augment.rotation = 30.0  # largest, in degrees
    stage.augment.shear = 0.0  # largest, in radians
    stage.augment.shift = 0.0  # largest, share of the side
    stage.augment.zoom = 0.0  # largest change, share of the side
    stage.augment.hflip = True
    stage.augment.vflip = False
    stage.augment.crop_area = (0.2, 1.0)  # random-resized crop; () takes the centre
    stage.augment.crop_ratio = (0.75, 1.333)  # of its width over height
    stage.augment.keep_aspect = True  # without a crop: False squashes whole images
    stage.augment.brightness = 0.2  # share of each pixel
    stage.augment.contrast = 0.2  # share of each pixel's difference from the mean
    stage.augment.mixup = 0.2  # alpha; 0 is off
    stage.augment.cutmix = 1.0  # alpha; 0 is off
    return stage
