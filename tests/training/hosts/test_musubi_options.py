"""What a run on musubi-tuner is asked for before anything is loaded, without a checkout."""

from types import SimpleNamespace

import pytest

from pair_network import PairError
from pair_network.training.hosts.musubi.dataset import prepare_dataset
from pair_network.training.hosts.musubi.entry import check_options
from pair_network.training.hosts.musubi.families import TRAINERS

PLAIN = {
    "network_module": None, "dim_from_weights": False, "network_weights": None, "base_weights": None, "resume": None,
    "network_dim": 4, "network_alpha": 4.0, "network_dropout": None, "network_args": None, "output_dir": "out",
    "sample_prompts": None, "vae": None, "text_encoder": None, "output_name": None, "optimizer_type": "",
}  # fmt: skip


@pytest.fixture
def files(tmp_path, monkeypatch, make_picture):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dit.safetensors").write_bytes(b"\x02" + bytes(7) + b"{}")
    (tmp_path / "prompts.txt").write_text("a cat\n", encoding="utf-8")
    make_picture(tmp_path / "picture.png", (1, 2, 3))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"dit": None}, "--dit is missing: name the file of the model"),
        ({"dit": "picture.png"}, r"--dit picture\.png: not a \.safetensors file"),
        ({"dit": "nowhere.safetensors"}, r"--dit nowhere\.safetensors: no such file"),
        ({"vae": "nowhere.safetensors"}, r"--vae nowhere\.safetensors: no such file"),
        ({"sample_prompts": "nowhere.txt", "vae": "dit.safetensors", "text_encoder": "dit.safetensors"},
         r"--sample_prompts nowhere\.txt: no such file"),
        ({"sample_prompts": "prompts.txt"}, "--vae is missing"),
        ({"sample_prompts": "prompts.txt", "vae": "dit.safetensors"}, "--text_encoder is missing"),
    ],
)  # fmt: skip
def test_files_are_asked_for_and_looked_at(files, options, words):
    with pytest.raises(PairError, match=words):
        check_options(SimpleNamespace(**PLAIN | {"dit": "dit.safetensors"} | options), TRAINERS["z_image"])


def test_what_musubi_tuner_insists_on_is_filled_in(files):
    args = SimpleNamespace(**PLAIN, dit="dit.safetensors")
    check_options(args, TRAINERS["z_image"])
    assert (args.network_module, args.output_name, args.optimizer_type, args.sdpa) == (
        "pair_network", "last", "AdamW", True,
    )  # fmt: skip


@pytest.mark.parametrize(("given", "told"), [({}, False), ({"resolution": "512", "dataset_repeats": 20}, True)])
def test_options_that_the_dataset_file_takes_the_place_of_are_named(tmp_path, make_picture, caplog, given, told):
    for side in ("content", "style"):
        make_picture(tmp_path / side / "a.png", (1, 2, 3))
    dataset = tmp_path / "d.toml"
    dataset.write_text(
        f'[[datasets]]\nimage_directory = "{(tmp_path / "style").as_posix()}"\n'
        f'content_directory = "{(tmp_path / "content").as_posix()}"\n',
        encoding="utf-8",
    )
    args = SimpleNamespace(
        **{"resolution": None, "train_batch_size": 1, "dataset_repeats": 1} | given, made_pairs=None, content=None,
        style=None, dataset_config=str(dataset), output_dir=str(tmp_path / "out"), output_name="x",
    )  # fmt: skip
    assert prepare_dataset(args) == [1]
    words = "d.toml: not used here, the dataset file says it: --resolution, --dataset_repeats"
    assert (words in caplog.text) == told == bool(caplog.records)
