"""Figures of studies hold what they were given."""

import pytest

pytest.importorskip("matplotlib", reason="pictures need matplotlib: pip install 'dbn[plots]'")

from experiments.study import figures


@pytest.mark.parametrize("log", [False, True])
def test_curves_draw_the_mean_over_runs(log):
    figure = figures.curves({"p": {"a": [[1.0, 2.0], [3.0, 4.0]], "b": [[5.0, 5.0]]}}, xlabel="x", ylabel="y", log=log)
    lines = figure.axes[0].lines
    assert [line.get_label() for line in lines] == ["a", "b"]
    assert list(lines[0].get_ydata()) == [2.0, 3.0]
    assert figure.axes[0].get_yscale() == ("log" if log else "linear")


@pytest.mark.parametrize(("band", "low", "words"), [("sd", 3 - 8**0.5, "± 1 sd"), ("range", 1.0, "lowest to highest")])
def test_curves_say_what_their_band_is(band, low, words):
    panels = {"p": {"a": [[1.0, 1.0], [5.0, 5.0]]}, "q": {"a": [[90.0, 90.0], [90.0, 90.0]]}}
    figure = figures.curves(panels, xlabel="x", ylabel="y", band=band)
    (drawn,) = figure.axes[0].collections
    assert float(drawn.get_paths()[0].vertices[:, 1].min()) == pytest.approx(low)
    assert words in figure.axes[-1].get_legend().get_title().get_text()
    assert figure.axes[0].get_ylim() == figure.axes[1].get_ylim()


def test_a_single_run_has_no_band_to_speak_of():
    figure = figures.curves({"p": {"a": [[1.0, 2.0]]}}, xlabel="x", ylabel="y")
    assert not figure.axes[-1].get_legend().get_title().get_text()
    with pytest.raises(ValueError, match="band is 'wide'"):
        figures.curves({"p": {"a": [[1.0, 2.0]]}}, xlabel="x", ylabel="y", band="wide")


def test_curves_say_what_their_numbers_belong_to():
    figure = figures.curves({"p": {"a": [[1.0, 2.0], [3.0, 4.0]]}}, xlabel="x", ylabel="y", at=[100, 50000])
    (axes,) = figure.axes
    assert list(axes.lines[0].get_xdata()) == [100, 50000]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["100", "50000"]
    assert axes.get_xscale() == "log"


def test_numbers_may_lie_on_a_linear_axis_and_a_name_has_one_colour():
    panels = {"p": {"a": [[1.0, 2.0]], "b": [[3.0, 4.0]]}, "q": {"b": [[3.0, 4.0]]}}
    figure = figures.curves(panels, xlabel="x", ylabel="y", at=[3, 6], at_log=False)
    left, right = figure.axes
    assert (list(right.lines[0].get_xdata()), right.get_xscale()) == ([3, 6], "linear")
    assert left.lines[1].get_color() == right.lines[0].get_color()
    assert [text.get_text() for text in right.get_legend().get_texts()] == ["a", "b"]


def test_by_layer_marks_zeros_at_the_lower_edge():
    figure = figures.by_layer(
        {"p": {"dead": [1.0, 0.0], "alive": [1.0, 0.5]}}, ticks={"p": ["in", "out"]}, highlight="alive"
    )
    dead, alive = (line for line in figure.axes[0].lines if line.get_label() in ("dead", "alive"))
    assert list(dead.get_ydata()) == [1.0, 0.05]
    assert alive.get_color() == "black"
    assert [text.get_text() for text in figure.axes[0].texts] == ["zero"]


def test_costs_are_drawn_on_logarithmic_axes():
    figure = figures.costs({"rows": ([10, 100], {"dbn": [9.0, 2.0], "floor": [3.0, 1.5]})}, ylabel="µs")
    (axes,) = figure.axes
    assert [line.get_label() for line in axes.lines] == ["dbn", "floor"]
    assert list(axes.lines[1].get_ydata()) == [3.0, 1.5]
    assert (axes.get_xscale(), axes.get_yscale(), axes.get_ylabel()) == ("log", "log", "µs")
