"""HPACellSegmentator's network: the original's outputs for weights drawn by a formula; its checks of tensors."""

from pathlib import Path

import dpn_weights
import keras
import numpy as np
import pytest
from scipy import ndimage

from hpa_tf.errors import InputError
from hpa_tf.models.dpn_unet import DpnUnet, Stage, set_tensors, tensor_shapes
from hpa_tf.segmenting import preparation

GOLDEN = Path(__file__).parent.parent.parent / "shared/data/golden"
MEAN, STD = np.array([124, 117, 104]) / 255, 1 / (0.0167 * 255)
TINY = DpnUnet(8, 4, (Stage(2, 8, 8, 4), Stage(1, 8, 16, 4), Stage(1, 16, 16, 4), Stage(2, 16, 16, 8)))


@pytest.fixture(scope="module")
def tiny():
    network = TINY.build()
    set_tensors(network, dpn_weights.tensors(tensor_shapes(network)), "tiny")
    return network


# -- against the original ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def golden():
    if not (GOLDEN / "dpn_unet").is_dir():
        pytest.skip("../shared/data/golden is not there")
    with np.load(GOLDEN / "dpn_unet/golden.npz", allow_pickle=False) as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def published():
    network = DpnUnet().build()
    set_tensors(network, dpn_weights.tensors(tensor_shapes(network)), "formula")
    return network


def drawn(shape, block: int = 1) -> np.ndarray:
    """Return squares of `block` px of one value each, in 0..1."""
    small = (*shape[:-2], -(-shape[-2] // block), -(-shape[-1] // block))
    values = np.random.Generator(np.random.PCG64(7)).random(small, np.float32)
    return values.repeat(block, -2).repeat(block, -1)[..., : shape[-2], : shape[-1]]


def normalised(planes: np.ndarray) -> np.ndarray:
    return ((planes.transpose(0, 2, 3, 1) - MEAN) / STD).astype(np.float32)


RUNS = {
    "cells": normalised(drawn((1, 3, 96, 128))),
    "cells_blocks": normalised(drawn((1, 3, 96, 128), 24)),
    "nuclei": normalised(drawn((1, 3, 96, 128))[:, [2, 2, 2]]),
}


@pytest.mark.slow
@pytest.mark.parametrize("run", RUNS)
def test_outputs_and_every_tap_are_the_originals(golden, published, run):
    names = [str(name) for name in golden[f"{run}_tap_names"]]
    layer_of = {"encoder_stages.1": "encoder_stages.1.3", "encoder_stages.2": "encoder_stages.2.3"}
    layer_of |= {"encoder_stages.3": "encoder_stages.3.19", "final": "final.0"}
    layers = [published.get_layer(layer_of.get(name, name)).output for name in names]
    *found, probabilities = keras.Model(published.input, [*layers, published.output])(RUNS[run])
    np.testing.assert_allclose(np.moveaxis(probabilities, -1, 1), golden[f"softmax_{run}"], atol=1e-5, rtol=0)
    for i, (name, tap) in enumerate(zip(names, found, strict=True)):
        flat = np.moveaxis(tap, -1, 1).astype(np.float64)
        assert "x".join(map(str, flat.shape)) == str(golden[f"{run}_tap_shapes"][i])
        scale = golden[f"{run}_tap_stats"][i, 2]
        stats = [flat.mean(), flat.std(), np.abs(flat).max()]
        mine = np.concatenate([stats, flat.ravel()[:8], flat.ravel()[-8:]])
        ends = [golden[f"{run}_tap_{part}"][i] for part in ("stats", "first8", "last8")]
        atol = 5e-6 * max(scale, 10)  # processors round differently: 2.2e-6 of the scale was seen
        np.testing.assert_allclose(mine, np.concatenate(ends), atol=atol, rtol=0, err_msg=name)
    np.testing.assert_allclose(np.moveaxis(found[-1], -1, 1), golden[f"logits_{run}"], atol=2e-5, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("case", ["200_uint8_pad", "202_uint16_pad", "256_uint8_nopad"])
def test_a_field_gets_the_originals_maps(golden, published, case):
    size, dtype, padded = case.split("_")
    size, padded = int(size), padded == "pad"
    planes = (drawn((4, size, size), 10) * np.float32(np.iinfo(dtype).max)).astype(dtype)
    red, _, blue, yellow = (preparation.shrink(plane, 0.25) for plane in planes)
    for kind, channels, make in (
        ("nuclei", (blue, blue, blue), preparation.nuclei_map),
        ("cells", (red, yellow, blue), preparation.cells_map),
    ):
        seen = preparation.network_input(channels, padded)
        wanted = golden[f"e2e_{case}_{'cells_network_input' if kind == 'cells' else 'nuclei_network_input_channel0'}"]
        np.testing.assert_allclose(np.moveaxis(seen, -1, 0)[: wanted.shape[1]], wanted[0], atol=2e-6, rtol=0)
        found = np.asarray(published(seen[None]))[0]
        np.testing.assert_allclose(np.moveaxis(found, -1, 0), golden[f"e2e_{case}_{kind}_softmax"][0], atol=1e-5)
        cut = preparation.crop(found, blue.shape) if padded else found
        difference = np.abs(make(cut, (size, size)).astype(int) - golden[f"e2e_{case}_{kind}_map"])
        assert difference.max() <= 1 and difference.astype(bool).mean() < 2e-3  # sums that round the other way


@pytest.mark.slow
@pytest.mark.parametrize("policy, most", [("mixed_float16", 0.01), ("mixed_bfloat16", 0.08)])
def test_in_16_bit_probabilities_stay_close(golden, published, policy, most):
    network = DpnUnet().build(policy)
    network.set_weights(published.get_weights())
    found = np.asarray(network(RUNS["cells_blocks"]))
    assert found.dtype == np.float32
    difference = np.abs(np.moveaxis(found, -1, 1) - golden["softmax_cells_blocks"])
    assert difference.max() < most and difference.mean() < most / 8


@pytest.mark.slow
def test_the_published_network_has_its_tensors(published):
    shapes = tensor_shapes(published)
    assert len(shapes) == 595 - 96  # a counter for each of 96 batch norms
    trained = [np.prod(shape) for name, shape in shapes.items() if "running" not in name]
    assert sum(trained) == 139_108_867


# -- a small one ------------------------------------------------------------------------------------------------------


def test_batch_norms_never_use_the_batchs_statistics(tiny):
    """Upstream's do where a file says so: the masks of a field then depend on what it is batched with."""
    pixels = np.random.default_rng(0).normal(size=(2, 64, 32, 3)).astype(np.float32)
    alone = np.asarray(tiny(pixels))
    np.testing.assert_allclose(np.asarray(tiny(pixels, training=True)), alone, atol=1e-6)
    np.testing.assert_allclose(np.asarray(tiny(pixels[:1])), alone[:1], atol=1e-5)
    np.testing.assert_allclose(alone.sum(-1), 1, atol=1e-5)
    assert alone.std() > 0.01


def test_tensors_in_a_wrapper_are_the_same(tiny):
    other = TINY.build()
    tensors = {name: np.asarray(array) for name, array in dpn_weights.tensors(tensor_shapes(tiny)).items()}
    counters = {"encoder_stages.0.1.num_batches_tracked": np.array(7)}
    wrapped = {f"module.{name}": array for name, array in (tensors | counters).items()}
    set_tensors(other, wrapped | {"optimizer.step": np.array(1)}, "file")
    for one, two in zip(other.get_weights(), tiny.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)


def test_tensors_of_another_network_are_named(tiny):
    right = dpn_weights.tensors(tensor_shapes(tiny))
    wrong = dict(right)
    del wrong["encoder_stages.1.2.c3x3_b.conv.weight"]
    wrong["encoder_stages.9.weight"] = wrong["final.0.bias"]
    wrong["final.0.weight"] = right["final.0.weight"][:2]
    with pytest.raises(InputError) as caught:
        set_tensors(TINY.build(), wrong, "x.pth")
    for part in ("3 tensors differ", "no encoder_stages.1.2.c3x3_b.conv.weight", "encoder_stages.9.weight unknown",
                 "final.0.weight of 2x8x3x3 for 3x8x3x3"):  # fmt: skip
        assert part in str(caught.value)
    with pytest.raises(InputError, match=r"another network \(\d+ tensors differ"):
        set_tensors(TINY.build(), {"conv1.weight": np.zeros(3)}, "x.pth")


# -- around the network -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(211, 175), (256, 256), (33, 2049), (64, 50)])
@pytest.mark.parametrize("scale", [0.25, 0.31, 1.0, 1.5])
def test_shrinking_is_a_gaussian_and_linear_interpolation(shape, scale):
    plane = np.random.default_rng(1).integers(0, 2**16, shape, np.uint16)
    new = [round(size * scale) for size in shape]
    sigmas = [max(0, (size / smaller - 1) / 2) for size, smaller in zip(shape, new, strict=True)]
    smoothed = ndimage.gaussian_filter(plane / 65535, sigmas, mode="mirror")
    zoom = [smaller / size for size, smaller in zip(shape, new, strict=True)]
    expected = ndimage.zoom(smoothed, zoom, order=1, grid_mode=True, mode="mirror")
    inner = np.s_[:] if scale <= 1 else np.s_[2:-2, 2:-2]  # where enlarged, edges are repeated, not mirrored
    np.testing.assert_allclose(preparation.shrink(plane, scale)[inner], expected[inner], atol=2e-5)


@pytest.mark.parametrize("shape", [(8, 8), (1, 40), (32, 64), (128, 129), (513, 31)])
def test_padding_makes_any_size_fit_and_is_cut_off_again(shape):
    plane = np.random.default_rng(2).random(shape, np.float32)
    seen = preparation.network_input((plane, plane, plane))
    assert all(size % 32 == 0 and size >= smaller + 33 for size, smaller in zip(seen.shape, shape, strict=False))
    back = preparation.crop(seen * np.float32(STD) + MEAN.astype(np.float32), shape)
    np.testing.assert_allclose(back[..., 1], plane, atol=1e-6)


def test_fields_too_small_for_a_cell_are_refused():
    preparation.check_size("a", (32, 32), 0.25)
    for shape, scale in (((31, 400), 0.25), ((400, 400), 0.001)):
        with pytest.raises(InputError, match="image a: found a field of"):
            preparation.check_size("a", shape, scale)


def test_maps_are_not_transposed():
    """Upstream exchanges height and width."""
    small = np.zeros((4, 8, 3), np.float32)
    small[1, 6] = (0.5, 0.25, 1)
    for make in (preparation.nuclei_map, preparation.cells_map):
        large = make(small, (16, 32))
        assert large.shape == (16, 32, 3) and large.dtype == np.uint8
        rows, columns = np.nonzero(large[..., 2])
        assert (rows.min(), rows.max(), columns.min(), columns.max()) == (4, 7, 24, 27)
        assert set(np.unique(large[..., 1])) == {0, 64} and not large[..., 0].any()
