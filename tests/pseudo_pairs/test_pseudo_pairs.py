"""Pairs out of one pair: the map against styles whose answer is known, its gate, and a folder that training takes."""

import numpy as np
import pytest
import toml
import torch
from PIL import Image

from demo.styles import HELD_OUT_STYLES
from pair_network.__main__ import main
from pair_network.errors import PairError
from pair_network.pseudo_pairs import command, features, gate
from pair_network.pseudo_pairs.folder import MadePair, dataset
from pair_network.pseudo_pairs.gate import Trial, best, block_parts, colour_parts, try_maps, with_details
from pair_network.pseudo_pairs.options import read_pairs
from pair_network.pseudo_pairs.style_map import StyleMap, fit, inputs_of


def scene(seed, height=64, width=64):
    """A photo-like picture: a few shaded, blurred shapes on a shaded ground, in colours of its own."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / [[[height]], [[width]]]
    image = rng.uniform(0.1, 0.9, 3) + 0.2 * (y - 0.5)[..., None]
    for _ in range(6):
        cy, cx, size = rng.uniform(0, 1, 3)
        inside = 1 / (1 + np.exp((np.hypot(y - cy, x - cx) - 0.1 - 0.2 * size) * 60))
        image = image + inside[..., None] * (rng.uniform(0, 1, 3) + 0.3 * (x - cx)[..., None] - image)
    image = image + 0.02 * rng.standard_normal(image.shape)
    return torch.from_numpy(np.clip(image, 0, 1)).float().permute(2, 0, 1)


def duotone(image):
    tone = features.luminance(image)
    return (
        torch.tensor([0.2, 0.1, 0.4])[:, None, None] * (1 - tone) + torch.tensor([0.7, 1.0, 0.8])[:, None, None] * tone
    )


def hatched(image):
    """Ink strokes every 6 pixels, darker where the picture is."""
    y, x = torch.meshgrid(torch.arange(image.shape[1]), torch.arange(image.shape[2]), indexing="ij")
    stroke = 0.5 + 0.5 * torch.cos(2 * torch.pi * (x + y) / 6)
    return (1 - stroke * (1 - features.luminance(image))).expand(3, -1, -1)


def faded(image):
    """The picture's own colours, paler: no tone tells them."""
    grey = features.luminance(image)
    return 0.3 + 0.6 * (grey + 0.6 * (image - grey))


def seen(image):
    return inputs_of(image, features.scales_of(image))


def error(style_map, style, seeds):
    """RMS distance to the true answer, as a part of the change."""
    wrong = sum(float((style_map(scene(seed)) - style(scene(seed))).square().mean()) for seed in seeds)
    change = sum(float((scene(seed) - style(scene(seed))).square().mean()) for seed in seeds)
    return (wrong / change) ** 0.5


@pytest.mark.parametrize(
    ("style", "name", "limit"), [(duotone, "linear", 0.1), (hatched, "lattice", 0.2), (faded, "linear", 0.1)]
)
def test_a_style_is_carried_to_other_pictures(style, name, limit):
    trials = try_maps(scene(0), style(scene(0)))
    chosen = best(trials)
    assert name in chosen.style_map.name
    assert error(chosen.style_map, style, range(1, 6)) < limit
    assert max(chosen.blocks, chosen.colours) < 0.5


@pytest.fixture
def quick(monkeypatch):
    """Networks of few updates, for tests in which they cannot succeed."""
    monkeypatch.setattr(gate, "STEPS", 20)
    monkeypatch.setattr(gate, "TRIAL_STEPS", 20)


def test_noise_is_no_style(quick):
    """A twin that has nothing to do with the picture: the gate must see that no map foretells it."""
    chosen = best(try_maps(scene(0), torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(1))))
    assert min(chosen.blocks, chosen.colours) > 0.5


def test_a_lattice_is_found_where_there_is_one():
    plain = fit("tone", seen(scene(0)), hatched(scene(0)).flatten(1).T, steps=100)
    left = hatched(scene(0)) - plain(seen(scene(0))).detach().T.view(3, 64, 64)
    waves = features.find_waves(left)
    assert any(abs(down - 1 / 6) < 0.01 and abs(across - 1 / 6) < 0.01 for down, across in waves)
    assert features.find_waves(torch.randn(3, 64, 64, generator=torch.Generator().manual_seed(0))) == []


def linear_trial(style, blocks=1.0):
    """A linear map, with the style's lattice where it has one."""
    scales = features.scales_of(scene(0))

    def fitted(waves):
        net = fit("linear", inputs_of(scene(0), scales, waves), style.flatten(1).T, steps=0)
        return StyleMap(net, scales, waves)

    waves = tuple(features.find_waves(style - fitted(())(scene(0))))
    return Trial(fitted(waves), blocks, 1.0)


def test_details_bring_back_what_the_map_leaves_soft():
    def ink(image):
        return torch.from_numpy(HELD_OUT_STYLES["ink"](image.movedim(0, -1).numpy())).movedim(-1, 0)

    soft = linear_trial(ink(scene(0)))
    sharp = with_details(soft, scene(0), ink(scene(0)))
    assert sharp.style_map.name == "linear, lattice, details" and sharp.blocks < soft.blocks
    assert error(sharp.style_map, ink, range(1, 6)) < 0.9 * error(soft.style_map, ink, range(1, 6))


def test_details_leave_colours_that_the_pair_lacks_to_the_map():
    plain = linear_trial(faded(scene(0)))
    detailed = with_details(plain, scene(0), faded(scene(0)))
    assert error(detailed.style_map, faded, range(1, 6)) < 1.05 * error(plain.style_map, faded, range(1, 6)) + 0.01


def test_details_that_do_not_come_again_are_left_out(quick):
    noise = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(1))
    trial = best(try_maps(scene(0), noise))
    assert with_details(trial, scene(0), noise) is trial


def test_held_out_parts_cover_the_frame_once():
    for parts in (block_parts, colour_parts):
        covered = sum(part.int() for part in parts(scene(0)))
        assert covered.unique().tolist() == [1]
    assert list(colour_parts(torch.full((3, 8, 8), 0.5))) == []


def test_a_fit_leaves_the_random_stream_alone():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    first, again = (fit("colour", seen(scene(0)), duotone(scene(0)).flatten(1).T, steps=5) for _ in range(2))
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(first.head.weight, again.head.weight)


def test_a_wide_blur_is_a_gaussian():
    """Also where it is computed on a smaller image: the mean stays, and an edge spreads as the error function says."""
    edge = torch.zeros(1, 64, 256)
    edge[:, :, 128:] = 1
    smooth = features.blurred(edge, 16.0)[0, 32]
    expected = 0.5 * (1 + torch.erf((torch.arange(256) - 127.5) / (16 * 2**0.5)))
    assert (smooth - expected).abs().max() < 0.02


# --- the command ---


def save(picture, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    command.to_image(picture).save(path)


@pytest.fixture
def world(tmp_path):
    """A pair in duotone, and three pictures with captions, one of them wide."""
    save(scene(0), tmp_path / "photo.png")
    save(duotone(scene(0)), tmp_path / "painted.png")
    for number, width in ((1, 64), (2, 64), (3, 96)):
        save(scene(number, 64, width), tmp_path / "pictures" / f"{number}.png")
        (tmp_path / "pictures" / f"{number}.txt").write_text(f"a photo of thing {number}\n")
    return tmp_path


def line(world, *more):
    return [
        "pairs", "--content", str(world / "photo.png"), "--style", str(world / "painted.png"), "--content_prompt",
        "a photo of a sbu thing", "--style_prompt", "in duotone style", "--resolution", "64", *map(str, more),
    ]  # fmt: skip


def test_a_folder_of_pairs(world, capsys):
    out = world / "out"
    assert main(line(world, "--pictures", world / "pictures", "--out", out, "--real_share", "0.5")) == 0
    assert "<- taken" in capsys.readouterr().out
    made = sorted((out / "made" / "style").glob("*.png"))
    assert [path.name for path in made] == ["0001.png", "0002.png", "0003.png"]
    assert Image.open(made[0]).size == (64, 64)
    truth = command.to_image(duotone(command.to_tensor(Image.open(out / "made" / "content" / "0001.png"))))
    assert np.abs(np.asarray(truth).astype(int) - np.asarray(Image.open(made[0])).astype(int)).mean() < 6
    assert made[0].with_suffix(".txt").read_text() == "a photo of thing 1 in duotone style\n"
    assert (out / "real" / "style" / "pair.txt").read_text() == "a photo of a sbu thing in duotone style\n"
    assert (out / "real" / "content" / "pair.png").read_bytes() == (world / "photo.png").read_bytes()
    assert (out / "sheet.png").is_file()
    (entry,) = toml.loads((out / "dataset.toml").read_text())["datasets"]
    assert entry["enable_bucket"] and [subset["num_repeats"] for subset in entry["subsets"]] == [3, 1]
    assert entry["subsets"][1]["custom_attributes"]["content_branch"] == "shared"
    assert main(line(world, "--pictures", world / "pictures", "--out", out)) == 2
    assert "is not an empty folder" in capsys.readouterr().err


def test_the_real_pair_has_its_share():
    picture = Image.new("RGB", (64, 64))
    made = [MadePair(picture, picture, "x")] * 48
    for share, repeats in ((0.5, 48), (0.25, 16), (0.01, 1)):
        subsets = dataset(command.Path("x"), made, 64, share)["datasets"][0]["subsets"]
        assert [subset["num_repeats"] for subset in subsets] == [repeats, 1]
    assert "enable_bucket" not in dataset(command.Path("x"), made, 64, 0.5)["datasets"][0]


def test_a_style_that_no_map_foretells_is_refused(world, quick, capsys):
    save(torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(1)), world / "painted.png")
    assert main(line(world, "--pictures", world / "pictures", "--out", world / "out")) == 3
    assert "train on the pair alone" in capsys.readouterr().err and not (world / "out").exists()
    assert main(line(world, "--check_only")) == 0


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ([], "give either --pictures FOLDER, or a --model"),
        (["--model", "m", "--prompts", "none.txt"], "--prompts none.txt: no such file"),
        (["--pictures", "nowhere", "--out", "x"], "nowhere: no such folder"),
        (["--pictures", "pictures"], "--out is missing"),
        (["--pictures", ".", "--out", "x"], "has no caption"),
        (["--check_only", "--style", "tall.png"], "a pair needs one aspect ratio"),
    ],
)
def test_mistakes_are_one_line(world, monkeypatch, capsys, more, message):
    monkeypatch.chdir(world)
    save(scene(1, 64, 32), world / "tall.png")
    assert main(line(world, *more)) == 2
    printed = capsys.readouterr().err.strip()
    assert printed.startswith("error: ") and message in printed and len(printed.splitlines()) == 1


def test_nothing_is_half_written(world, monkeypatch):
    def fails(*_):
        raise PairError("full disk")

    monkeypatch.setattr("pair_network.pseudo_pairs.folder.save_picture", fails)
    with pytest.raises(PairError, match="full disk"):
        command.run(read_pairs(line(world, "--pictures", world / "pictures", "--out", world / "out")[1:]))
    assert sorted(path.name for path in world.iterdir()) == ["painted.png", "photo.png", "pictures"]


# --- a real photo ---


def photo_parts(side):
    """A photo that matplotlib ships, ``side`` pixels high: the part to fit to, and one that the map never saw."""
    import matplotlib

    file = command.Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
    if not file.is_file():
        pytest.skip("this matplotlib comes without its photo")
    photo = Image.open(file).convert("RGB")
    photo = photo.resize((round(photo.width * side / photo.height), side), Image.Resampling.LANCZOS)
    middle = photo.width // 2
    return [command.to_tensor(photo.crop(box)) for box in ((0, 0, middle, side), (middle, 0, photo.width, side))]


@pytest.mark.parametrize(("side", "name"), [(512, "poster"), (512, "pixel"), (1024, "duotone")])
def test_a_real_photo(side, name):
    """Fitted to one half of a photo in a demo style, the map must come near the true answer on the other half."""
    own, other = photo_parts(side)
    style = HELD_OUT_STYLES[name]
    truth = [torch.from_numpy(style(part.movedim(0, -1).numpy())).movedim(-1, 0) for part in (own, other)]
    chosen = with_details(best(try_maps(own, truth[0])), own, truth[0])
    missed = (chosen.style_map(other) - truth[1]).square().mean() / (other - truth[1]).square().mean()
    assert missed.sqrt() < 0.35
    assert chosen.blocks < 0.35
