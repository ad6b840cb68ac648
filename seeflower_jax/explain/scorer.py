"""The compiled functions that score a network's attribution methods.

    scorer = Scorer(network, ["grad_cam"], layer="mixed10", options=None, seed=0)
    maps = scorer.maps(images, labels, positions)                 # {method: [n, h, w]}
    scorer.faithfulness(images, maps["grad_cam"], labels)         # {column: [n]}
    scorer.infidelity(images, maps["grad_cam"], labels, positions)   # [n]
    scorer.sensitivity(images, labels, positions)                 # {method: [n]}
    scorer.completeness(images, labels)                           # [n]
    scorer.randomised(images, maps, labels, positions, count)     # {method: [levels]}
    localise(maps["grad_cam"], masks)                             # {column: [n]}
    scorer.grids(images_of_grids, labels_of_grids, cells, positions)  # {method: [n]}

`images` are what the network sees. `positions` seed random methods and metrics, so a
result does not depend on the batch of an image. `explain.score` runs a scorer over many
images.
"""

import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from seeflower_jax import sharding
from seeflower_jax.attribution import batch as attribution_batch
from seeflower_jax.attribution import regions
from seeflower_jax.attribution.batch import ExplainFunction
from seeflower_jax.attribution.completeness import completeness
from seeflower_jax.attribution.metrics import faithfulness, localisation
from seeflower_jax.attribution.metrics.infidelity import infidelity, remove_square
from seeflower_jax.attribution.metrics.randomisation import randomised, rank_correlation
from seeflower_jax.attribution.metrics.road import combine, road
from seeflower_jax.attribution.metrics.sensitivity import max_sensitivity
from seeflower_jax.attribution.metrics.sparseness import sparseness
from seeflower_jax.attribution.types import Layer
from seeflower_jax.inference.network import Network


def layer_groups(params: Mapping[str, Any]) -> list[list[str]]:
    """Return the names of parameters by block, from the head to the stem.

    The number in a name is the number of its block. If no name starts with "mixed" or
    "block", any word may precede the number, as in "conv2" and "stage1_conv".
    """
    names, rule = list(params["backbone"]), r"(?:mixed|block)(\d+)"
    if not any(re.match(rule, name) for name in names):
        rule = r"\D*(\d+)"
    blocks: dict[int, list[str]] = {}
    for name in names:
        match = re.match(rule, name)
        number = int(match[1]) if match else -1
        blocks.setdefault(number, []).append(f"backbone/{name}")
    return [["head"], *(blocks[number] for number in sorted(blocks, reverse=True))]


class Scorer:
    """The compiled functions of one network and its methods.

    Args:
      network: the network to explain.
      methods: keys of `attribution.registry.METHODS`.
      layer: layer of class activation maps, several layers, or "head".
      options: options of methods by name, `{"integrated_gradients": {"steps": 8}}`.
      grid_size: side of the grids in pixels, even; 0 is twice the side of an image. If
        `spec.pooling` is "flatten", grids have the side of an image.
      seed: seed of random methods and of the randomised parameters.

    Raises:
      ValueError: if a method is unknown, or a layer has no map.
    """

    def __init__(
        self,
        network: Network,
        methods: Sequence[str],
        layer: Layer | None,
        options: Mapping[str, Mapping] | None,
        grid_size: int = 0,
        seed: int = 0,
    ):
        self._network, self._key = network, jax.random.key(seed)
        self.methods, self._layer = tuple(methods), layer
        self._mesh = sharding.make_mesh()
        self._variables = sharding.replicate(network.variables, self._mesh)
        size = network.view.size
        # A head of flattened features takes images of one size only.
        is_flat = network.spec.pooling == "flatten"
        self.grid_size = size if is_flat else grid_size or 2 * size

        def make_explainer(names: Sequence[str]) -> ExplainFunction:
            return attribution_batch.make_explainer(
                network.spec,
                names,
                layer,
                network.preprocess,
                min(size, self.grid_size),
                options,
            )

        self._explain = make_explainer(methods)
        self._compute_faithfulness = jax.jit(self._faithfulness)
        self._compute_infidelity = jax.jit(self._infidelity)
        self._compute_completeness = jax.jit(self._completeness)
        self._compute_sensitivity = [
            jax.jit(functools.partial(self._sensitivity, make_explainer(group)))
            for group in attribution_batch.in_groups(methods)
        ]

    def check_grids(self) -> None:
        """Check that grids have an even side.

        Raises:
          ValueError: if they do not. The message names the side.
        """
        if self.grid_size % 2:
            raise ValueError(
                f"images of {self._network.spec.name} have a side of {self.grid_size} "
                "pixels, and its head of flattened features takes no grids of another "
                "side; a grid needs an even side, so leave out the pointing game"
            )

    def maps(
        self,
        images: Float[np.ndarray, "n h w 3"] | Float[Array, "n h w 3"],
        labels: Int[np.ndarray, " n"],
        positions: Int[np.ndarray, " n"],
        variables: Mapping | None = None,
    ) -> dict[str, Float[np.ndarray, "n h w"]]:
        """Compute {method: maps} that explain the labels.

        Args:
          images: what the network sees, or grids of such images.
          labels: the classes to explain.
          positions: positions of the images among all images; they seed random methods.
          variables: variables of the network; its own by default.
        """
        if variables is not None:
            variables = sharding.replicate(variables, self._mesh)
        rows = self._to_devices(images, labels, self._keys(positions))
        maps = self._explain(variables or self._variables, *rows)[2]
        return self._to_host(maps, len(images))

    def _keys(self, positions: Int[np.ndarray, " n"]) -> Key[Array, " n"]:
        """Return a random key for each image, by its position and not by its batch."""
        return jax.vmap(functools.partial(jax.random.fold_in, self._key))(positions)

    def _to_devices(self, *rows: np.ndarray | Array) -> Any:
        """Split arrays over the devices."""
        return sharding.shard_rows(rows, self._mesh)

    def _to_host(self, tree: Any, count: int) -> Any:
        """Copy the first rows of arrays to the host; the others fill the devices."""
        return jax.tree.map(lambda rows: rows[:count], jax.device_get(tree))

    def _faithfulness(
        self,
        variables: dict,
        images: Float[Array, "n s s 3"],
        maps: Float[Array, "n s s"],
        labels: Int[Array, " n"],
    ) -> dict[str, Float[Array, " n"]]:
        network = self._network.bind(variables)
        road_morf, road_lerf = road(network, images, maps, labels)
        return {
            "deletion": faithfulness.area_under(
                faithfulness.deletion(network, images, maps, labels)
            ),
            "insertion": faithfulness.area_under(
                faithfulness.insertion(network, images, maps, labels)
            ),
            "road_morf": road_morf.mean(0),
            "road_lerf": road_lerf.mean(0),
            "road_combined": combine(road_morf, road_lerf),
            "sparseness": sparseness(maps),
        }

    def faithfulness(
        self,
        images: Float[np.ndarray, "n s s 3"],
        maps: Float[np.ndarray, "n s s"],
        labels: Int[np.ndarray, " n"],
    ) -> dict[str, Float[np.ndarray, " n"]]:
        """Compute {column: a value for each image} of one method's maps."""
        rows = self._to_devices(images, maps, labels)
        scores = self._compute_faithfulness(self._variables, *rows)
        return self._to_host(scores, len(images))

    def _infidelity(
        self,
        variables: dict,
        images: Float[Array, "n s s 3"],
        maps: Float[Array, "n s s"],
        labels: Int[Array, " n"],
        keys: Key[Array, " n"],
    ) -> Float[Array, " n"]:
        network = self._network.bind(variables)
        return infidelity(
            network,
            images,
            maps,
            keys,
            labels,
            perturb=remove_square(max(1, images.shape[1] // 5)),
            normalise=True,  # because the units of methods differ
        )

    def infidelity(
        self,
        images: Float[np.ndarray, "n s s 3"],
        maps: Float[np.ndarray, "n s s"],
        labels: Int[np.ndarray, " n"],
        positions: Int[np.ndarray, " n"],
    ) -> Float[np.ndarray, " n"]:
        """Compute the infidelity of one method's maps; see `maps` for `positions`."""
        rows = self._to_devices(images, maps, labels, self._keys(positions))
        errors = self._compute_infidelity(self._variables, *rows)
        return self._to_host(errors, len(images))

    def _sensitivity(
        self,
        explain: ExplainFunction,
        variables: dict,
        images: Float[Array, "n s s 3"],
        labels: Int[Array, " n"],
        keys: Key[Array, " n"],
    ) -> dict[str, Float[Array, " n"]]:
        def maps(images):
            return explain(variables, images, labels, keys)[2]

        return max_sensitivity(maps, images, keys)

    def sensitivity(
        self,
        images: Float[np.ndarray, "n s s 3"],
        labels: Int[np.ndarray, " n"],
        positions: Int[np.ndarray, " n"],
    ) -> dict[str, Float[np.ndarray, " n"]]:
        """Compute {method: max-sensitivity of each image}; `maps` has the arguments."""
        rows = self._to_devices(images, labels, self._keys(positions))
        changes: dict = {}
        for compute in self._compute_sensitivity:
            changes |= self._to_host(compute(self._variables, *rows), len(images))
        return changes

    def _completeness(
        self,
        variables: dict,
        images: Float[Array, "n s s 3"],
        labels: Int[Array, " n"],
    ) -> Float[Array, " n"]:
        spec, network = self._network.spec, self._network.bind(variables)
        layer = self._layer or attribution_batch.map_layer(spec, images.shape[1])
        return completeness(network, images, labels, layer=layer)

    def completeness(
        self, images: Float[np.ndarray, "n s s 3"], labels: Int[np.ndarray, " n"]
    ) -> Float[np.ndarray, " n"]:
        """Compute the share of each score that the layers' contributions add up to."""
        rows = self._to_devices(images, labels)
        shares = self._compute_completeness(self._variables, *rows)
        return self._to_host(shares, len(images))

    def randomised(
        self,
        images: Float[np.ndarray, "n s s 3"],
        maps: Mapping[str, Float[np.ndarray, "n s s"]],
        labels: Int[np.ndarray, " n"],
        positions: Int[np.ndarray, " n"],
        count: int,
    ) -> dict[str, list[float]]:
        """Compute {method: mean rank correlation of each level of randomisation}.

        The parameters are randomised from the head down, one more block at each level.
        The correlation is between the maps before and after. The mean is over the first
        `count` images.
        """
        variables = self._network.variables
        groups = layer_groups(variables["params"])
        levels: dict[str, list[float]] = {name: [] for name in maps}
        for changed in randomised(variables, groups, self._key):
            for name, values in self.maps(images, labels, positions, changed).items():
                correlation = rank_correlation(
                    jnp.asarray(maps[name]), jnp.asarray(values)
                )
                levels[name].append(float(np.mean(correlation[:count])))
        return levels

    def grids(
        self,
        images: Float[np.ndarray, "n 4 s s 3"],
        labels: Int[np.ndarray, "n 4"],
        cells: Int[np.ndarray, " n"],
        positions: Int[np.ndarray, " n"],
    ) -> dict[str, Float[np.ndarray, " n"]]:
        """Compute {method: share of each grid's map in the cell of its target}.

        Args:
          images, labels: images and labels of the four cells of each grid.
          cells: the target's cell in each grid, from 0 to 3.
          positions: position of each grid in the list of all grids.
        """
        grids = localisation.grid_images(jnp.asarray(images))
        side = self.grid_size
        grids = jax.image.resize(grids, (len(grids), side, side, 3), "bilinear")
        targets = np.take_along_axis(labels, cells[:, None], -1)[:, 0]
        return {
            name: np.asarray(
                localisation.grid_pointing(jnp.asarray(maps), jnp.asarray(cells))
            )
            for name, maps in self.maps(grids, targets, positions).items()
        }


@jax.jit
def localise(
    maps: Float[Array, "n s s"], masks: Bool[Array, "n s s"]
) -> dict[str, Float[Array, " n"]]:
    """Compute {column: a value for each image} of maps and the masks of the objects."""
    boxes = regions.bounding_boxes(masks)
    in_boxes = regions.fill(boxes, *masks.shape[1:])
    return {
        "pointing_hit": localisation.pointing_game(maps, masks),
        "energy_in_mask": localisation.energy_pointing_game(maps, masks),
        "energy_in_box": localisation.energy_pointing_game(maps, in_boxes),
        "mask_iou": localisation.mask_iou(maps, masks),
        "box_iou": localisation.box_iou(regions.bounding_boxes(maps), boxes),
    }
