"""Pairs in batches: found, refused, framed alike, in an order that can be taken up again."""

import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pair_network.errors import PairError
from pair_network.training.hosts.embedded.buckets import bucket_sizes, cover, nearest_bucket, shrunk_bucket
from pair_network.training.hosts.embedded.caching import cache_latents
from pair_network.training.hosts.embedded.dataset import make_dataset_group, shuffled_caption
from pair_network.training.hosts.embedded.dataset_config import SubsetConfig, read_dataset_config
from pair_network.training.hosts.embedded.images import load_pixels
from pair_network.training.hosts.embedded.model import TokenizeStrategy, load_models

sides = st.integers(8, 3000)


@given(sides, sides)
def test_every_image_covers_its_bucket(width, height):
    sizes = bucket_sizes((512, 512), 256, 1024, 64)
    frame = nearest_bucket((width, height), sizes)
    assert frame.bucket in sizes
    assert all(r >= b for r, b in zip(frame.resized, frame.bucket, strict=True))
    # nothing is cut from both directions: the image just covers the bucket
    assert any(r - b <= 1 for r, b in zip(frame.resized, frame.bucket, strict=True))


@given(sides, sides)
def test_no_upscale_never_enlarges(width, height):
    frame = shrunk_bucket((width, height), (512, 512), 64)
    assert frame.resized[0] * frame.resized[1] <= max(512 * 512 * 1.02, width * height)
    assert max(frame.resized) <= max(width, height)
    assert all(b % 64 == 0 and b <= r for r, b in zip(frame.resized, frame.bucket, strict=True))


def test_bucket_sizes_worked_by_hand():
    # area 128·128 = 16384: width 64 → height 16384/64 = 256 → capped at 192; width 192 → 16384/192 = 85 → 64
    assert bucket_sizes((128, 128), 64, 192, 64) == [(64, 192), (128, 128), (192, 64)]
    assert cover((300, 100), (192, 64)).resized == (192, 64)
    assert cover((200, 100), (128, 128)).resized == (256, 128)
    assert cover((200, 100), (128, 128)).left_top == (64, 0)


def test_pairs_of_a_subset_may_share_a_content_branch(pairs, options):
    entry = pairs["datasets"][0]
    alone = make_dataset_group(pairs, options(), 0)
    shared = {**entry["subsets"][0]["custom_attributes"], "content_branch": "shared"}
    together = make_dataset_group(
        {"datasets": [{**entry, "subsets": [{**entry["subsets"][0], "custom_attributes": shared}]}]}, options(), 0
    )
    assert alone.num_pairs > 1 and together.num_pairs == 1
    assert {sample.pair_index for sample in together.samples} == {0}
    assert len(together.samples) == len(alone.samples) and len(together.pair_captions()) == 1


# --- settings --------------------------------------------------------------------------------------------------------


def test_values_come_from_subset_dataset_general_then_options(pairs, options):
    entry = pairs["datasets"][0]
    entry["subsets"].append({**entry["subsets"][0], "num_repeats": 9})
    entry["num_repeats"] = 4
    config = {"general": {"flip_aug": True, "num_repeats": 2}, **pairs}
    (dataset,) = read_dataset_config(config, options("--caption_extension", ".txt", "--train_batch_size", "3"))
    assert [subset.num_repeats for subset in dataset.subsets] == [4, 9]
    assert dataset.subsets[0].flip_aug and dataset.subsets[0].caption_extension == ".txt"
    assert dataset.batch_size == 1 and dataset.resolution == (64, 64)
    del entry["batch_size"], entry["resolution"]
    (dataset,) = read_dataset_config(config, options("--resolution", "64,128", "--train_batch_size", "3"))
    assert dataset.batch_size == 3 and dataset.resolution == (64, 128)


def change(settings, where, key, value):
    target = {"top": settings, "dataset": settings["datasets"][0], "subset": settings["datasets"][0]["subsets"][0]}
    if where == "attributes":
        target["subset"]["custom_attributes"][key] = value
    else:
        target[where][key] = value
    return settings


@pytest.mark.parametrize(
    ("where", "key", "value", "words"),
    [
        ("top", "dataset", [], ["unknown key 'dataset'", "datasets"]),
        ("dataset", "batchsize", 1, ["'batchsize'", "did you mean batch_size?"]),
        ("subset", "num_repeat", 1, ["did you mean num_repeats?", "subset 1"]),
        ("attributes", "content_dirs", "x", ["did you mean content_dir?"]),
        ("attributes", "content_branch", "none", ["content_branch = 'none'", 'write "shared"']),
        ("attributes", "content_dir", 3, ["content_dir", "a text"]),
        ("subset", "content_dir", "c", ["content_dir belongs into custom_attributes = { content_dir = 'c' }"]),
        ("subset", "num_repeats", "3", ["num_repeats", "a whole number"]),
        ("subset", "num_repeats", True, ["num_repeats", "a whole number"]),
        ("subset", "flip_aug", 1, ["flip_aug", "true or false"]),
        ("subset", "num_repeats", 0, ["at least 1"]),
        ("dataset", "resolution", "512", ["resolution"]),
        ("dataset", "resolution", [64, 64, 64], ["resolution"]),
        ("dataset", "resolution", 65, ["multiple of 8"]),
        ("dataset", "batch_size", 0, ["batch_size"]),
        ("dataset", "enable_bucket", True, ["min_bucket_reso 256"]),
        ("subset", "is_reg", True, ["is_reg", "no content image"]),
        ("subset", "random_crop", True, ["random_crop", "cut alike"]),
        ("dataset", "color_aug", True, ["color_aug"]),
        ("subset", "face_crop_aug_range", [1.0, 2.0], ["face_crop_aug_range"]),
        ("subset", "image_dir", "", ["image_dir is missing"]),
        ("dataset", "subsets", [], ["no [[datasets.subsets]]"]),
    ],
)
def test_mistakes_in_the_dataset_settings_are_named(pairs, options, where, key, value, words):
    with pytest.raises(PairError) as mistake:
        read_dataset_config(change(pairs, where, key, value), options())
    assert all(word in str(mistake.value) for word in words), mistake.value
    assert "\n" not in str(mistake.value)


def test_the_file_is_named_in_mistakes(tmp_path, options):
    path = tmp_path / "data.toml"
    path.write_text("[general]\nfoo = 1\n", encoding="utf-8")
    with pytest.raises(PairError, match=r"data\.toml: \[general\].*'foo'"):
        read_dataset_config(path, options())


# --- images ----------------------------------------------------------------------------------------------------------


def test_missing_folder_is_named(pairs, options):
    with pytest.raises(PairError, match="nowhere"):
        make_dataset_group(change(pairs, "subset", "image_dir", "nowhere"), options(), 0)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda folder: (folder / "content" / "dog.png").unlink(), ["dog", "content"]),
        (lambda folder: (folder / "style" / "dog.png").unlink(), ["dog.png", "style"]),
        (lambda folder: (folder / "style" / "dog.png").write_bytes(b""), ["dog.png", "empty"]),
        (lambda folder: (folder / "style" / "dog.png").write_bytes(b"text"), ["dog.png", "not a readable image"]),
        (lambda folder: cut(folder / "content" / "dog.png"), ["dog.png", "not a readable image"]),
        (lambda folder: (folder / "style" / "dog.caption").write_text(""), ["dog.caption", "empty caption"]),
        (lambda folder: (folder / "style" / "dog.caption").write_bytes(b"\xff\xfe\x00"), ["dog.caption", "UTF-8"]),
        (lambda folder: [path.unlink() for path in (folder / "style").iterdir()], ["style", "no image"]),
    ],
)
def test_bad_images_are_named_before_any_model_is_loaded(tmp_path, pairs, options, spoil, words):
    spoil(tmp_path)
    with pytest.raises(PairError) as mistake:
        make_dataset_group(pairs, options(), 0)
    assert all(word in str(mistake.value) for word in words), mistake.value


def cut(path):
    path.write_bytes(path.read_bytes()[:-200])


def test_different_shapes_are_refused_and_different_sizes_are_not(tmp_path, pairs, options, make_picture):
    make_picture(tmp_path / "content" / "dog.png", (128, 128), 1)
    make_dataset_group(pairs, options(), 0)
    make_picture(tmp_path / "content" / "dog.png", (128, 96), 1)
    with pytest.raises(PairError, match=r"128x96.*64x64|64x64.*128x96"):
        make_dataset_group(pairs, options(), 0)


def test_deep_images_are_refused(tmp_path, pairs, options):
    from PIL import Image

    Image.new("I;16", (64, 64)).save(tmp_path / "style" / "dog.png")
    with pytest.raises(PairError, match="8 bits"):
        make_dataset_group(pairs, options(), 0)


def test_captions_beside_an_image_win_over_the_tokens(tmp_path, pairs, options):
    (tmp_path / "style" / "dog.txt").write_text("a dog\nsecond line\n", encoding="utf-8")
    (tmp_path / "content" / "cat.txt").write_text("a cat", encoding="utf-8")
    group = make_dataset_group(pairs, options("--caption_extension", ".txt"), 0)
    style, content = "a photo of a dog in digital style", "a photo of a dog"
    assert group.pair_captions() == [("a cat", style), (content, "a dog"), (content, style)]


def test_an_image_without_a_caption_is_an_error(pairs, options):
    del pairs["datasets"][0]["subsets"][0]["custom_attributes"]["content_class_tokens"]
    with pytest.raises(PairError, match=r"cat\.png: no caption.*content_class_tokens"):
        make_dataset_group(pairs, options(), 0)


# --- batches ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def group(model, pairs, options):
    """Makes the dataset of the three pairs, ready for batches; keywords change the subset or the dataset."""

    def make(seed=0, dataset=None, **subset):
        pairs["datasets"][0].update(dataset or {})
        pairs["datasets"][0]["subsets"][0].update(subset)
        made = make_dataset_group(pairs, options(), seed)
        made.tokenize_strategy = TokenizeStrategy(model)
        return made

    return make


def batches(group, epoch=0):
    return [group.collate(draws) for draws in group.epoch_batches(epoch)]


def test_batches_have_the_hosts_keys_and_shapes(group):
    made = group(dataset={"batch_size": 2})
    first, second = sorted(batches(made), key=lambda batch: -len(batch["captions"]))
    assert made.num_pairs == 3 and made.batches_per_epoch == 2
    assert [len(b["captions"]) for b in (first, second)] == [2, 1]  # the last batch is smaller
    for side in (first, first["content"]):
        assert side["images"].shape == (2, 3, 64, 64) and side["latents"] is None
        assert side["input_ids_list"][0].shape == (2, 77)
        assert side["loss_weights"].tolist() == [1, 1] and side["network_multipliers"].tolist() == [1, 1]
        assert side["original_sizes_hw"].tolist() == side["target_sizes_hw"].tolist() == [[64, 64]] * 2
    assert sorted(first["pair_indices"] + second["pair_indices"]) == [0, 1, 2]
    assert {"flippeds", "custom_attributes", "crop_top_lefts", "alpha_masks", "text_encoder_outputs_list"} <= set(first)


@pytest.mark.parametrize("cached", [False, True])
def test_the_images_of_a_pair_are_framed_and_mirrored_alike(tmp_path, model, group, make_picture, cached):
    # the same picture on both sides must give the same tensor, whatever the bucket, the flip and the resolution
    for name, size in (("cat", (160, 80)), ("dog", (70, 100)), ("fox", (64, 64))):
        make_picture(tmp_path / "style" / f"{name}.png", size, 3)
        make_picture(tmp_path / "content" / f"{name}.png", size, 3)
    buckets = {"enable_bucket": True, "min_bucket_reso": 32, "max_bucket_reso": 128, "bucket_reso_steps": 16}
    made = group(dataset={"batch_size": 2, **buckets}, flip_aug=True, num_repeats=4)
    if cached:
        cache_latents(made, load_models(model)[1], batch_size=1)
    seen = set()
    for epoch in (0, 1):
        for batch in batches(made, epoch):
            tensors, content = (side["latents" if cached else "images"] for side in (batch, batch["content"]))
            assert torch.equal(tensors, content)
            seen |= {(tuple(tensors.shape[2:]), flipped) for flipped in batch["flippeds"]}
    assert len(seen) == 6  # three shapes, each mirrored and not: otherwise the test would prove little


def test_a_shifted_content_image_would_be_noticed(tmp_path, group, make_picture):
    # companion of the test above: pictures that differ give tensors that differ
    batch = batches(group())[0]
    assert not torch.equal(batch["images"], batch["content"]["images"])


def test_flipping_mirrors_the_pixels(tmp_path, group):
    sample = group().samples[0]
    plain, mirrored = (load_pixels(sample.style.path, sample.frame, flipped) for flipped in (False, True))
    assert torch.equal(plain.flip(-1), mirrored) and not torch.equal(plain, mirrored)


def test_cached_latents_do_not_depend_on_the_order_of_caching(model, pairs, options, group):
    vae = load_models(model)[1]
    one, three = group(flip_aug=True), group(flip_aug=True)
    cache_latents(one, vae, batch_size=1)
    torch.manual_seed(99)  # and they do not touch or follow the global stream
    before = torch.get_rng_state()
    cache_latents(three, vae, batch_size=3)
    assert torch.equal(before, torch.get_rng_state())
    for a, b in zip(one.samples, three.samples, strict=True):
        for flipped in (False, True):
            torch.testing.assert_close(a.style.latents[flipped], b.style.latents[flipped], rtol=1e-4, atol=1e-5)
    other = group(seed=1, flip_aug=True)
    cache_latents(other, vae, batch_size=1)
    assert not torch.allclose(one.samples[0].style.latents[False], other.samples[0].style.latents[False], atol=1e-4)


def test_an_epoch_follows_from_seed_and_number_alone(group):
    def order(made, epoch):
        return [[(d.sample.pair_index, d.flipped) for d in b] for b in made.epoch_batches(epoch)]

    made = group(flip_aug=True, num_repeats=5)
    assert order(made, 3) == order(group(flip_aug=True), 3)
    assert order(made, 3) != order(made, 4) and order(made, 3) != order(group(seed=1), 3)
    assert sorted(pair for batch in order(made, 0) for pair, _ in batch) == [0] * 5 + [1] * 5 + [2] * 5


@pytest.mark.parametrize("processes", [1, 2, 3, 4])
def test_processes_share_an_epoch_in_equal_numbers(group, processes):
    made = group(num_repeats=2)
    shares = [made.rank_batches(1, rank, processes) for rank in range(processes)]
    assert len({len(share) for share in shares}) == 1  # a rank that stops earlier would hang the others
    used = [draw.sample.pair_index for share in shares for batch in share for draw in batch]
    assert sorted(set(used)) == [0, 1, 2] and len(used) - 6 < processes


def test_shuffled_captions_keep_their_head(group):
    subset = SubsetConfig("x", shuffle_caption=True, keep_tokens=2, caption_prefix="pre,", caption_suffix=", post")
    tags = [f"t{i}" for i in range(12)]
    out = shuffled_caption(", ".join(tags), subset, random.Random(0)).split(", ")
    assert out[:2] == ["pre", "t0"] and sorted(out) == sorted(["pre", *tags, "post"])
    assert out[2:] != [*tags[1:], "post"]


def test_the_same_pair_in_two_datasets_is_one_pair(pairs, options):
    pairs["datasets"].append({**pairs["datasets"][0], "resolution": 128})
    group = make_dataset_group(pairs, options(), 0)
    assert group.num_pairs == 3 and len(group.samples) == 6


def test_a_subset_without_content_is_left_to_the_trainer(pairs, options, train):
    pairs["datasets"][0]["subsets"][0]["custom_attributes"] = {}
    group = make_dataset_group(pairs, options(), 0)
    assert len(group.subsets_without_content) == 1 and group.samples[0].content is None
    with pytest.raises(PairError, match="content_dir"):
        train(pairs)
