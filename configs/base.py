"""Define all config keys and their defaults.

    config = base.get_config()
    config.stages = ConfigDict({"head": base.get_stage(), ...})

The other files of configs/ change these values. The command line can change any value,
as in `--config.eval.batch_size=16`. None means the network's own value.
"""

from ml_collections import ConfigDict, config_dict


def get_config() -> ConfigDict:
    """Return the config that the recipes start from; it has no stages."""
    config = ConfigDict()
    config.recipe = "best"  # name of the recipe, for records
    config.seed = 0
    # Validation metric that selects the best variables: top1, mean_class_top1, top5 or
    # loss.
    config.metric = "top1"

    config.model = ConfigDict()
    config.model.name = "inception_v3"  # or vgg16, vgg19, baseline, small
    config.model.dropout = 0.2  # rate in the head
    # Type of the computation: float32, bfloat16 or auto. auto is bfloat16 on GPUs and
    # TPUs, and float32 on CPUs.
    config.model.dtype = "float32"
    config.model.pooling = config_dict.placeholder(str)  # or root_average, flatten, ...
    # Regular expressions on the names of the pooled endpoints; () is the last endpoint.
    config.model.pooled = config_dict.placeholder(tuple)
    config.model.standardize = config_dict.placeholder(bool)  # features of the head
    config.model.hidden = config_dict.placeholder(tuple)  # widths of dense layers
    config.model.width = config_dict.placeholder(float)  # factor on all channels
    config.model.input_size = config_dict.placeholder(int)  # side in pixels
    # Preprocessing that the weights expect, if the weight file does not state it: unit,
    # tf, caffe, caffe_rgb or torch.
    config.model.preprocess = config_dict.placeholder(str)

    config.init = ConfigDict()
    # Path of a weight file. 'imagenet' downloads Keras' file; '' is random parameters.
    config.init.weights = "imagenet"
    config.init.head = "new"  # 'hidden' or 'all' loads dense layers from the file
    # The config values that differ in the pretraining run, which provides the initial
    # weights of the main run. {} means no pretraining.
    config.init.pretraining = ConfigDict()
    # Where the main run starts, on the line from the weights before the pretraining (0)
    # to the weights after it (1).
    config.init.pretrained_share = 1.0

    config.data = ConfigDict()
    config.data.source = "oxford_flowers102"  # or folder, synthetic
    config.data.dir = ""  # folder of the images; '' downloads the official files
    # official, trainval or reversed; folders also take percentages, such as 70/15/15.
    config.data.split = "official"
    # For classes with uneven numbers of images: 'sampling' trains on each class equally
    # often; 'none' trains on each image once an epoch.
    config.data.balance = "none"
    # Another way to balance classes: training adds this multiple of the logarithm of
    # each class's share to the logits. 1.0 is usual, 0 is off. It needs balance 'none'.
    config.data.logit_adjustment = 0.0
    config.data.verify = True  # check label file hashes and split counts
    config.data.cache_dir = ""  # '' is ~/.cache/seeflower_jax
    config.data.shortest_side = 320  # shortest side of the decoded images in pixels
    # Whether each device keeps the images of a stage with augmentation in its memory:
    # always, never or auto. auto does so on GPUs if the images need less than an eighth
    # of the memory.
    config.data.on_device = "auto"
    # The next three keys are only for the source 'synthetic'.
    config.data.species = 16  # number of drawn species
    config.data.images_per_class = (10, 5, 25)  # for training, validation and test
    config.data.seed = 0  # seed of the drawn images

    config.device = ConfigDict()
    # Precision of float32 matrix products and convolutions on GPUs and TPUs:
    # tensorfloat32, float32 or default. JAX's default is TensorFloat-32 on NVIDIA GPUs
    # since Ampere.
    config.device.matmul_precision = "default"
    # Whether JAX keeps compiled functions for the next start, in the folder `compiled`
    # of data.cache_dir. JAX's own settings take precedence.
    config.device.compilation_cache = True

    # `logits` is a file of `scripts.ensemble --teacher`, with a teacher's logits of the
    # training images. `weight` is the teacher's share of the loss; the labels have the
    # rest. `temperature` softens the distributions of teacher and network.
    config.distillation = ConfigDict()
    config.distillation.logits = ""
    config.distillation.weight = 0.0  # 0 is off
    config.distillation.temperature = 1.0

    config.whitening = ConfigDict()
    config.whitening.enabled = False
    config.whitening.patch_size = 7  # side of a patch in pixels, odd
    config.whitening.patches_per_image = 100
    config.whitening.epsilon = 0.01  # share of the mean eigenvalue

    # What the network sees of an image in validation, prediction, attribution, export.
    config.eval = ConfigDict()
    config.eval.size = 320  # side in pixels; 0 is the network's own size
    config.eval.crop = 1.0  # the central square's share of the shortest side
    config.eval.keep_aspect = True  # False squashes the whole image to a square
    config.eval.batch_size = 32

    # The result averages the logits of these views. Other views need no new training,
    # unless a stage has `all_views`.
    config.test_time = ConfigDict()
    config.test_time.views = ((320, 1.0),)  # (size, crop) of each view, as in eval
    config.test_time.hflip = True  # True also averages the mirror image of each view

    config.stage_order = ()  # names of the stages to run, in order
    config.stages = ConfigDict()
    return config


def get_stage() -> ConfigDict:
    """Return a stage that trains a new head on a frozen network."""
    stage = ConfigDict()
    stage.solver = "gradient"  # or ridge, which solves the head in closed form
    # True solves the head on all views of config.test_time. False, or 16,384 or more
    # views in total, uses only the view of config.eval.
    stage.all_views = False
    stage.epochs = 100
    stage.batch_size = 68  # images in a batch, over all devices
    stage.accum_steps = 1  # parts of a batch, computed one by one to save memory
    # Pairs of a regular expression on parameter names and a factor on the learning
    # rate. None freezes parameters. Every parameter matches exactly one expression.
    stage.partition = (("head/.*", 1.0), ("backbone/.*", None))
    stage.optimizer = "adamw"  # any optimizer of optax: sgd, rmsprop, lion, ...
    stage.optimizer_options = ()  # arguments of the optimizer, as in (("b1", 0.8),)
    stage.learning_rate = 1e-3
    stage.schedule = "cosine"  # or constant
    stage.warmup_steps = 0
    stage.weight_decay = 1e-4  # on kernels
    stage.clip_norm = 0.0  # largest norm of all gradients together; 0 is off
    stage.label_smoothing = 0.1
    stage.ema_decay = 0.0  # decay of the moving average of the parameters; 0 is off
    stage.train_batch_stats = False  # True normalises batches by their own statistics
    stage.keep_batch_stats = False  # True does not store these statistics
    stage.validate_every = 5  # epochs between validations
    # `patience` validations without a gain of `min_delta` end the stage; 0 is off.
    stage.early_stopping = ConfigDict({"patience": 0, "min_delta": 0.0})
    # Number of augmented draws of each image, for a stage of the head alone. Their
    # features are computed once, and the epochs alternate between the draws. 0 augments
    # images anew in each step.
    stage.draws = 0
    stage.augment = ConfigDict()
    stage.augment.enabled = False  # False trains on the views of the evaluation
    stage.augment.size = 224  # side of training images; 0 is the network's own size
    stage.augment.rotation = 30.0  # largest angle in degrees
    stage.augment.shear = 0.0  # largest angle in radians
    stage.augment.shift = 0.0  # largest shift as a share of the side
    stage.augment.zoom = 0.0  # largest change of the scale as a share of the side
    stage.augment.hflip = True
    stage.augment.vflip = False
    # Range of the area of random-resized crops, as a share of the image; () crops the
    # centre.
    stage.augment.crop_area = (0.2, 1.0)
    stage.augment.crop_ratio = (0.75, 1.333)  # range of width divided by height
    stage.augment.keep_aspect = True  # False, without a crop, squashes whole images
    stage.augment.brightness = 0.2  # largest change as a share of each pixel
    stage.augment.contrast = 0.2  # largest change of the difference from the mean
    stage.augment.erasing = 0.0  # probability that a random rectangle is erased
    stage.augment.mixup = 0.2  # alpha; 0 is off
    stage.augment.cutmix = 1.0  # alpha; 0 is off
    return stage


def linear(config: ConfigDict, pooled: tuple[str, ...]) -> ConfigDict:
    """Return the recipe of a linear head on a frozen network, solved in closed form.

    The head reads the mean and the standard deviation of every convolution of the
    middle blocks. It learns from the views of `config.test_time`, by default the whole
    image, its centre and their mirror images. The evaluation averages the same views.
    Its training takes minutes on a CPU. The function changes `config` in place.

    Args:
      config: config of the network.
      pooled: regular expressions on the names of the convolutions.
    """
    config.recipe = "linear"
    config.model.update(
        pooling="root_moments", pooled=pooled, standardize=True, dropout=0.0
    )
    size = config.eval.size
    config.test_time.update(views=((size, 1.0), (size, 0.75)), hflip=True)
    head = get_stage()
    head.update(solver="ridge", all_views=True, epochs=1, validate_every=1)
    config.stage_order = ("linear",)
    config.stages = ConfigDict({"linear": head})
    return config


def linear_after_tuning(config: ConfigDict, pooled: tuple[str, ...]) -> ConfigDict:
    """Return a recipe that fine-tunes a network, and then has the head of `linear`.

    The pretraining run has the model and the stages of `config`: it trains its head,
    and then the network. The main run replaces this head by the one of `linear`. The
    function changes `config` in place.

    Args:
      config: config of the network, with the stages of the fine-tuning.
      pooled: as for `linear`.
    """
    keys = "pooling", "pooled", "standardize", "dropout"
    pretraining = {
        "model": {key: config.model[key] for key in keys},
        "stage_order": config.stage_order,
        # The result of the pretraining run is an intermediate one: one view is enough.
        "test_time": {"views": ((config.eval.size, 1.0),), "hflip": False},
    }
    recipe, stages = config.recipe, config.stages
    config = linear(config, pooled)
    config.recipe = recipe
    config.stages = ConfigDict({**stages, **config.stages})
    config.init.pretraining = ConfigDict(pretraining)
    return config
