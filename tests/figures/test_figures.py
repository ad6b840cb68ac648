"""Draw images and plots from arrays."""

import warnings

import matplotlib
import numpy as np
import pytest
from matplotlib import mathtext
from PIL import Image

from seeflower_jax.evaluation import calibration
from seeflower_jax.figures import canvas, class_counts, curves, evaluation, maps, text

# Matplotlib would refuse the first as mathematics, set the second in italics, and leave
# the last out of legends. The last also has no glyphs: a control character, a zero, a
# byte that is not UTF-8, and a mark that reverses the rest.
NAMES = [r"$\oops$", "$a$", "_100\\$ & <b>\x07\x00\udce9\u202e\n"]
IMAGE = np.full((12, 12, 3), 100.0)
MAP = np.eye(12, dtype=np.float32)
LOG = [
    {"stage": stage, "epoch": epoch, split: {"loss": 1.0, "top1": 0.5}}
    for stage in NAMES[:2]
    for epoch in (1, 2)
    for split in ("train", "validation")
]

DRAWINGS = {
    "class counts": lambda path: class_counts.write_class_counts(
        path, np.array([0, 1, 1]), {name: np.array([0, 2]) for name in NAMES}, 2
    ),
    "learning curves": lambda path: curves.write_learning_curves(path, LOG),
    "comparison": lambda path: curves.write_comparison(path, {NAMES[0]: LOG}),
    "confusion matrix": lambda path: evaluation.write_confusion_matrix(
        path, np.eye(3, dtype=int), NAMES
    ),
    "reliability": lambda path: evaluation.write_reliability(
        path, {1.0: calibration.reliability(np.eye(3), np.arange(3))}
    ),
    "rows": lambda path: maps.write_rows(path, {NAMES[0]: [IMAGE] * 3}, NAMES),
    "contact sheet": lambda path: maps.write_contact_sheet(
        path, [IMAGE] * 3, [MAP] * 3, NAMES, signed=True
    ),
    "sheet": lambda path: maps.write_sheet(path, [IMAGE] * 3, NAMES),
    "score curves": lambda path: maps.write_score_curves(path, np.eye(3), NAMES),
    "table": lambda path: maps.write_table(path, NAMES, [NAMES]),
}


@pytest.mark.parametrize("draw", DRAWINGS.values(), ids=DRAWINGS)
def test_text_is_drawn_as_it_is(draw, tmp_path, monkeypatch):
    def parse(self, text, *_args, **_options):
        raise AssertionError(f"{text!r} was read as mathematics")

    monkeypatch.setattr(mathtext.MathTextParser, "parse", parse)
    backend, parameters = matplotlib.get_backend(), dict(matplotlib.rcParams)
    draw(tmp_path / "figure.png")
    # Only the figure was written, and the state of Matplotlib has not changed.
    assert [path.name for path in tmp_path.iterdir()] == ["figure.png"]
    with Image.open(tmp_path / "figure.png") as image:
        assert image.format == "PNG" and min(image.size) > 50
        assert len(np.unique(np.asarray(image.convert("L")))) > 2
    assert matplotlib.get_backend() == backend
    assert dict(matplotlib.rcParams) == parameters


def test_figure_that_fails_leaves_the_file_before_it(tmp_path):
    path = tmp_path / "figure.png"
    path.write_text("before")
    with pytest.raises(ZeroDivisionError):
        with canvas.png(path, size=(1, 1)):
            raise ZeroDivisionError
    assert path.read_text() == "before" and len(list(tmp_path.iterdir())) == 1


def test_long_titles_of_a_contact_sheet_are_whole(tmp_path):
    path, title = (
        tmp_path / "sheet.png",
        "alpine sea holly 81%; map of alpine sea holly",
    )
    image, values = np.zeros((60, 60, 3)), np.zeros((60, 60))
    maps.write_contact_sheet(path, [image] * 4, [values] * 4, [title] * 4, False)
    edge = np.asarray(Image.open(path).convert("L"))[:3]
    assert (edge == 255).all()


LONG = [
    "05729_Plantae_Tracheophyta_Liliopsida_Asparagales_Orchidaceae_Epipactis_x",
    "a name in many words, which goes on and on until it has eighty characters",
    "rose",
]


@pytest.mark.parametrize(
    "draw",
    [
        lambda path: evaluation.write_confusion_matrix(
            path, np.eye(3, dtype=int), LONG
        ),
        lambda path: maps.write_rows(path, {name: [IMAGE] * 3 for name in LONG}, LONG),
        lambda path: maps.write_score_curves(path, np.eye(3), LONG),
        lambda path: maps.write_table(path, ["method", "a"], [[LONG[0], "1"]]),
    ],
    ids=["confusion matrix", "rows", "score curves", "table"],
)
def test_long_names_are_whole(draw, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # "Tight layout not applied"
        draw(tmp_path / "figure.png")
    with Image.open(tmp_path / "figure.png") as image:
        pixels = np.asarray(image.convert("L"))
    for edge in (pixels[:3], pixels[-3:], pixels[:, :3], pixels[:, -3:]):
        assert (edge == 255).all()


def test_size_of_a_confusion_matrix_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation, "_MOST_NAMES", 10)
    sizes = []
    for count in (10, 100):
        path = tmp_path / f"{count}.png"
        names = ["x" * 1000, *map(str, range(1, count))]
        evaluation.write_confusion_matrix(path, np.eye(count, dtype=int), names)
        with Image.open(path) as image:
            sizes.append(image.size)
    np.testing.assert_allclose(*sizes, rtol=0.05)
    assert max(sizes[0]) < 1500


def test_overlay_and_grey():
    values = np.zeros((4, 4), np.float32)
    assert maps.normalise(values, signed=True).tolist() == np.full((4, 4), 0.5).tolist()
    assert maps.normalise(values, signed=False).max() == 0
    values[0, 0], values[3, 3] = 2, -2
    signed = maps.overlay(IMAGE[:4, :4], values, signed=True)
    assert signed[0, 0, 0] > signed[0, 0, 2]  # red for the class
    assert signed[3, 3, 2] > signed[3, 3, 0]  # blue against the class
    unsigned = maps.grey(values)
    assert unsigned[0, 0].tolist() == [255] * 3 and unsigned[3, 3].tolist() == [0] * 3


@pytest.mark.parametrize("signed,name", [(False, "inferno"), (True, "seismic")])
def test_overlay_mixes_colours_of_the_map_with_grey(signed, name):
    rng = np.random.default_rng(0)
    image, values = rng.uniform(0, 255, (40, 30, 3)), rng.normal(size=(40, 30))
    shown = maps.normalise(values, signed)
    strength = np.abs(2 * shown - 1) if signed else shown
    opacity = (0.25 + 0.65 * strength)[..., None]
    grey = image.mean(-1, keepdims=True)
    # Matplotlib colours integers by their index in the colormap.
    colours = 255 * matplotlib.colormaps[name]((shown * 256).astype(int))[..., :3]
    expected = opacity * colours + (1 - opacity) * grey
    overlay = maps.overlay(image, values, signed)
    assert np.abs(overlay - expected).max() < 2
    bright = maps.overlay(image + 1000, values, signed)  # no colour of another value
    expected = opacity * colours + (1 - opacity) * 255
    assert np.abs(bright - expected).max() < 2


def test_box_is_drawn_inside_its_edges():
    pixels = maps.draw_box(np.zeros((20, 20, 3), np.uint8), (2, 4, 10, 12))
    rows, columns = np.nonzero(pixels.any(-1))
    assert [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1] == [
        *(2, 4, 10, 12)
    ]


def test_legend_names_every_curve(tmp_path, monkeypatch):
    drawn = []

    def set_text(self, value):
        drawn.append(value)

    monkeypatch.setattr(matplotlib.text.Text, "set_text", set_text)
    maps.write_score_curves(tmp_path / "curves.png", np.eye(3), NAMES)
    assert set(map(text.printable, NAMES)) <= set(drawn)


def _write_title(path, title):
    with canvas.png(path, size=(2, 1)) as axes:
        axes[0, 0].set_title(title)
    return path.read_bytes()


def test_one_line_names_characters_that_no_font_has(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(canvas, "_FALLBACKS", ())
    _write_title(tmp_path / "title.png", "薔薇 δάφνη 薔\nrose")
    (message,) = caplog.messages
    assert message.startswith(f"{tmp_path / 'title.png'}: no font has 薇薔, ")


def test_characters_come_from_an_installed_font_that_has_them(
    tmp_path, monkeypatch, caplog
):
    whole = _write_title(tmp_path / "whole.png", "δ")
    with matplotlib.rc_context({"font.family": "STIXSizeOneSym"}):
        monkeypatch.setattr(canvas, "_FALLBACKS", ())
        boxes = _write_title(tmp_path / "boxes.png", "δ")
        assert "no font has" in caplog.text
        caplog.clear()
        monkeypatch.setattr(canvas, "_FALLBACKS", ("No Such Font", "DejaVu Sans"))
        filled = _write_title(tmp_path / "filled.png", "δ")
    assert not caplog.messages and len({whole, boxes, filled}) == 3


def test_unprintable_text_is_escaped():
    assert text.printable("Möhre $1\x07\ud800\n") == "Möhre $1\\x07\\ud800\\n"
    assert text.wrapped("a\x07 b\nc", width=5) == "a\\x07\nb\nc"
    assert [text.shortened("a b c", limit) for limit in (4, 5)] == ["a b…", "a b c"]
    assert text.file_stem("a/b c\x00") == "a_b_c_"
    assert text.file_stem("é" * 200, limit=101) == "é" * 50
