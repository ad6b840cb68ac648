"""docs/backward_rules.md: its example runs."""

import re

import numpy as np

from tests import harness

PAGE = (harness.ROOT / "docs/backward_rules.md").read_text()


def test_its_example_runs():
    (example,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    names = {}
    exec(example, names)
    network, images = names["network"], names["images"]
    labels = network(images)[0].argmax(-1)[:, None]
    scores, grey_scores = (
        np.take_along_axis(np.asarray(network(x)[0]), np.asarray(labels), 1)[:, 0]
        for x in (images, 0 * images + 127.5)
    )
    np.testing.assert_allclose(
        names["contributions"].sum((1, 2)), scores - grey_scores, rtol=1e-3, atol=1e-6
    )
    np.testing.assert_allclose(names["relevance"].sum((1, 2)), scores, rtol=1e-3)
    assert names["guided_maps"].shape == (2, 32, 32)
