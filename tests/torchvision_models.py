"""torchvision's networks, also beside a PyTorch built for the CPU alone."""

import pytest

torch = pytest.importorskip("torch")


def _import():
    """torchvision's compiled operators, which no network here uses, may not load:
    declaring two of them lets it import."""
    try:
        import torchvision
    except (RuntimeError, AttributeError):
        library = torch.library.Library("torchvision", "DEF")
        for signature in (
            "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
            "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
        ):
            library.define(signature)
        import torchvision
    return torchvision
