"""Pickles, read on request: tensors of every kind become numbers, and what is none of that one line."""

import pytest
import torch

KEY = "lora_unet_mid_block_attentions_0_proj_in"
FIRST = f"{KEY}.lora_down.weight"


def factors(dtype=torch.float32):
    generator = torch.Generator().manual_seed(3)
    return {
        FIRST: torch.randn(2, 8, generator=generator).to(dtype),
        f"{KEY}.lora_up.weight": torch.randn(8, 2, generator=generator).to(dtype),
        f"{KEY}.alpha": torch.tensor(1.0),
    }


def saved(path, content, **options):
    torch.save(content, path, **options)
    return path


READ = {
    "tensors": lambda: factors(),
    "parameters": lambda: {key: torch.nn.Parameter(value) for key, value in factors().items()},
    "a state dict": lambda: {"state_dict": factors(), "epoch": 3},
    "8-bit floats": lambda: factors(torch.float8_e4m3fn),
    "sparse": lambda: {**factors(), FIRST: factors()[FIRST].to_sparse()},
    "transposed": lambda: {**factors(), FIRST: factors()[FIRST].t().contiguous().t()},
    "a part of another": lambda: {**factors(), FIRST: torch.cat([factors()[FIRST], torch.ones(3, 8)])[:2]},
}


@pytest.mark.parametrize(
    "kind, is_old", [(kind, old) for kind in READ for old in (False, True) if (kind, old) != ("8-bit floats", True)]
)
def test_every_kind_of_tensor_is_read(kind, is_old, run, tmp_path, helpers, recwarn):
    content = READ[kind]()
    path = saved(tmp_path / "in.pt", content, _use_new_zipfile_serialization=not is_old)
    for verb in ("info", "kohya"):
        status, _, errors = run(verb, path, "--family", "sd1", "--allow-pickle")
        assert status == 0 and not errors, errors
    tensors = content.get("state_dict", content)
    wanted = {key: value.detach().to_dense() if value.is_sparse else value.detach() for key, value in tensors.items()}
    helpers.assert_same_deltas(helpers.load(tmp_path / "in-kohya.safetensors"), wanted, 0.0)
    assert not [each for each in recwarn if "requires_grad" in str(each.message)]


REFUSED = {
    "no numbers": (lambda: {FIRST: torch.empty(2, 8, device="meta")}, "has no numbers"),
    "complex": (lambda: {FIRST: torch.zeros(2, 8, dtype=torch.complex64)}, "complex64"),
    "infinity in 8 bits": (lambda: {FIRST: torch.full((2, 8), float("inf")).to(torch.float8_e5m2)}, "infinity"),
    "a module": (lambda: torch.nn.Linear(2, 2), "other things than tensors"),
    "arrays": (lambda: {key: value.numpy() for key, value in factors().items()}, "other things than tensors"),
    "an embedding": (lambda: {"string_to_param": {"*": torch.zeros(1, 768)}, "name": "x"}, "textual inversion"),
    "a list": (lambda: [factors()], "something else than a map"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_none_is_refused_in_one_line(kind, run, tmp_path):
    content, words = REFUSED[kind]
    status, _, errors = run("info", saved(tmp_path / "in.pt", content()), "--allow-pickle")
    assert status == 1 and words in errors and len(errors.splitlines()) == 1
    assert "two options" not in errors, "torch's own words advise to trust the file"


def test_half_a_pickle_is_damaged_and_not_suspicious(run, tmp_path):
    path = saved(tmp_path / "in.pt", factors())
    path.write_bytes(path.read_bytes()[:300])
    assert "copy or download it again" in run("info", path, "--allow-pickle")[2]
