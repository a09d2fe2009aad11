"""Figures hold what they were given."""

import math

import pytest
import torch

pytest.importorskip("matplotlib", reason="pictures need matplotlib: pip install 'dbn[plots]'")

from dbn import plots


def test_tiles_lie_row_by_row_with_gaps():
    images = torch.arange(12.0).reshape(3, 2, 2)
    picture = plots.tile(images, columns=2)
    assert picture.shape == (7, 7)
    assert torch.equal(picture[1:3, 1:3], images[0])
    assert torch.equal(picture[1:3, 4:6], images[1])
    assert torch.equal(picture[4:6, 1:3], images[2])
    assert int(picture.isnan().sum()) == 49 - 12


def test_filters_show_the_units_with_the_largest_weights():
    weight = torch.zeros(4, 3)
    weight[:, 2] = torch.tensor([1.0, -2.0, 3.0, -4.0])
    figure = plots.filters(weight, (2, 2), count=1)
    shown = torch.as_tensor(figure.axes[0].images[0].get_array().filled(math.nan))
    assert torch.equal(shown[1:3, 1:3], torch.tensor([[1.0, -2.0], [3.0, -4.0]]))
    assert "1 of 3" in figure.axes[0].get_title()


def test_filters_without_a_shape_are_one_matrix(tmp_path):
    figure = plots.filters(torch.zeros(5, 3))
    assert figure.axes[0].images[0].get_array().shape == (3, 5)
    figure.savefig(tmp_path / "zero.png")


@pytest.mark.parametrize("draw", [lambda: plots.filters(torch.zeros(5, 3), (2, 2)),
                                  lambda: plots.image_rows({"a": torch.zeros(2, 5)}, (2, 2))])  # fmt: skip
def test_a_shape_that_does_not_fit_is_refused(draw):
    with pytest.raises(ValueError, match=r"shape is \(2, 2\) for 5 columns"):
        draw()


def test_image_rows_carry_their_names():
    figure = plots.image_rows({"data": torch.zeros(3, 4), "again": torch.ones(3, 4)}, (2, 2), title="two rows")
    assert [axes.get_ylabel() for axes in figure.axes] == ["data", "again"]
