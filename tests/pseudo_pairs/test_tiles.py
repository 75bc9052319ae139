"""Tiles: found where a painting consists of them, a photo seen through them, pixel art carried to other pictures."""

import numpy as np
import pytest
import torch

from demo.scenes import render_scene
from demo.styles import BASE_STYLES, HELD_OUT_STYLES
from pair_network.pseudo_pairs.gate import best, try_maps, with_details
from pair_network.pseudo_pairs.tiles import Tiles, find_tiles


def photo(seed: int) -> torch.Tensor:
    return torch.from_numpy(render_scene(seed).image).movedim(-1, 0)


def styled(image: torch.Tensor, name: str) -> torch.Tensor:
    painted = (HELD_OUT_STYLES | BASE_STYLES)[name](image.movedim(0, -1).numpy())
    return torch.from_numpy(np.clip(painted, 0, 1).astype(np.float32)).movedim(-1, 0)


def test_a_photo_seen_through_tiles_is_their_means() -> None:
    image = torch.rand(3, 7, 9)
    found = Tiles((3, 2), (4, 0))(image)
    for rows in ((0, 2), (2, 5), (5, 7)):
        for columns in ((0, 4), (4, 8), (8, 9)):
            part = (slice(None), slice(*rows), slice(*columns))
            torch.testing.assert_close(found[part], image[part].mean((1, 2), keepdim=True).expand_as(image[part]))


@pytest.mark.parametrize("tiles", [Tiles((4, 1), (4, 3)), Tiles((6, 0), (6, 5)), Tiles((5, 2), (8, 7))])
def test_tiles_are_found_where_they_lie(tiles: Tiles) -> None:
    for seed in range(3):
        assert find_tiles(tiles(photo(seed))) == tiles


@pytest.mark.parametrize("name", ["ink", "duotone", "watercolour", "pastel", "night"])
def test_no_tiles_are_found_in_other_styles(name: str) -> None:
    assert find_tiles(styled(photo(1), name)) is None


def test_each_pixel_knows_its_place_in_its_tile() -> None:
    tiles, light = Tiles((2, 1), (3, 0)), torch.full((1, 4, 6), 0.5)
    places = tiles.places(light)
    assert places.shape == (24, 2 * (2 + 3))
    # Row 0 is the last of a tile that the edge cuts off, column 0 the first of one.
    assert places[0].tolist() == [0, 1, 0, 0.5, 1, 0, 0, 0.5, 0, 0]


def test_pixel_art_is_carried_to_other_pictures() -> None:
    content = photo(1)
    style = styled(content, "pixel")
    made = with_details(best(try_maps(content, style)), content, style)
    assert made.style_map.name == "linear, tiles, details"
    wrong = [float((made.style_map(photo(n)) - styled(photo(n), "pixel")).square().mean()) for n in range(2, 8)]
    change = [float((photo(n) - styled(photo(n), "pixel")).square().mean()) for n in range(2, 8)]
    # .41 by a lattice of waves with details.
    assert (sum(wrong) / sum(change)) ** 0.5 < 0.2


def test_what_only_looks_like_tiles_is_left() -> None:
    content = photo(1)
    style = styled(content, "halftone")
    assert find_tiles(style) is not None
    assert "tiles" not in best(try_maps(content, style)).style_map.name
