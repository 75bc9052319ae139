"""Numbers and measures without torch are those that torch gives."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from convert.files.elements import ELEMENTS, element_of, numbers
from convert.files.storage import open_tensors
from convert.formats.layers import Layer, delta
from convert.formats.measures import branch_overlap, delta_norm, flat, gram_defect
from pair_network.network import orthogonal


def bytes_of_many(element):
    """Every number of a narrow type, random ones of a wide one."""
    if element.name == "BOOL":
        return b"\0\1"
    if element.size <= 2:
        return np.arange(256**element.size).astype(f"uint{8 * element.size}").tobytes()
    generator = torch.Generator().manual_seed(1)
    return torch.randn(1000, generator=generator).mul(1000).to(element.dtype).numpy().tobytes()


@pytest.mark.parametrize("element", ELEMENTS.values(), ids=ELEMENTS)
def test_numbers_are_those_of_torch(element):
    data = bytearray(bytes_of_many(element))
    wanted = torch.frombuffer(data, dtype=element.dtype)
    assert element.size == element.dtype.itemsize and element.is_float == element.dtype.is_floating_point
    assert element_of(wanted.dtype) is element
    assert np.array_equal(numbers(data, element), wanted.double().numpy(), equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_measures_are_those_of_the_network(tmp_path, dtype):
    generator = torch.Generator().manual_seed(2)
    tensors = {name: torch.randn(4, 12, 3, 3, generator=generator).to(dtype) for name in ("content", "style")}
    tensors["up"] = torch.randn(7, 4, 1, 1, generator=generator).to(dtype)
    save_file(tensors, tmp_path / "x.safetensors")
    found, _ = open_tensors(tmp_path / "x.safetensors")
    content, style = (flat(found[name].numbers()) for name in ("content", "style"))
    assert gram_defect(style) == pytest.approx(orthogonal.gram_defect(tensors["style"]), rel=1e-12)
    wanted = orthogonal.branch_overlap(tensors["content"], tensors["style"])
    assert branch_overlap(content, style) == pytest.approx(wanted, rel=1e-12)
    layer = Layer(("unet.x",), found["style"], found["up"], 2.0)
    assert delta_norm(layer) == pytest.approx(float(delta(layer, element=ELEMENTS["F64"]).norm()), rel=1e-12)
    assert gram_defect(style) != pytest.approx(gram_defect(content), rel=1e-3)  # the measure tells them apart
