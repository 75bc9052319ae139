"""The training step's bench: every way makes an update, and memory is counted, not guessed."""

import torch
from torch import nn

from benchmarks.speed.__main__ import main, page, saved_bytes
from benchmarks.speed.models import load_unet, load_vae, make_data
from benchmarks.speed.ways import FLOOR, PLAIN, Setting, Way, make_ways


def test_every_way_updates_what_it_trains_and_leaves_the_weights():
    unet = load_unet("embedded", "cpu", torch.float32)
    vae = load_vae("embedded", "cpu", torch.float32)
    data = make_data("embedded", unet, 1, 8, 4)
    before = [parameter.clone() for parameter in unet.parameters()]
    setting = Setting(unet, data, 2, "attention", False, vae)
    assert set(make_ways(setting, ["joint, frozen"])) == {FLOOR, PLAIN, "ours, joint, frozen"}
    for name, way in make_ways(setting).items():
        start = [parameter.detach().clone() for parameter in way.trained]
        for _ in range(3):  # alternate needs two; the first update after zero ups moves the ups alone
            way.step()
        changed = [not torch.equal(a, b) for a, b in zip(start, way.trained, strict=True)]
        assert name == FLOOR or any(changed), name
        if "joint" in name and "penalty" in name:
            assert all(changed), name
    assert all(torch.equal(a, b) for a, b in zip(before, unet.parameters(), strict=True))


def test_memory_counts_what_lives_until_the_backward_pass():
    layer = nn.Linear(8, 8)
    weights = {parameter.untyped_storage().data_ptr() for parameter in layer.parameters()}

    def passes() -> None:
        for _ in range(2):  # one after the other: the fuller moment counts, not the sum
            layer(torch.ones(4, 8)).relu().sum().backward()

    assert saved_bytes(Way(passes, 4), weights) == 2 * 4 * 8 * 4  # the input and the activation


def test_the_command_as_it_stands_writes_its_page(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["speed", "--side", "8", "--repeats", "1", "--output", str(tmp_path / "speed")])
    main()
    assert "rank 16 + 16" in (tmp_path / "speed.md").read_text()


def test_the_page_says_what_was_not_run():
    cost = dict.fromkeys(("seconds", "to_plain", "to_floor", "low", "high", "rows_per_second"), 1.0)
    cost |= {"saved_mb": 1.0, "state_mb": 1.0, "peak_mb": None}
    entry = {"shape": "a", "machine": "b", "torch": "c", "date": "d", "load": [0.0, 0.0], "ways": {FLOOR: cost}}
    assert "not run" in page({"embedded, cpu, attention": entry})
