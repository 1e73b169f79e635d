"""The model's input after preprocessing, compared with a plain NumPy reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge.core.errors import ModelError
from edge.core.manifest import InputSettings
from edge.core.records import Geometry
from edge.inference.backends.engine import TensorSpec
from edge.inference.preprocess import Preprocessor

PLANAR = (1, 3, 48, 64)  # N, C, H, W
INTERLEAVED = (1, 48, 64, 3)


def preprocessor(shape: tuple[int | None, ...] = PLANAR, dtype: str = "float32", **keys: Any) -> Preprocessor:
    return Preprocessor(TensorSpec("images", shape, np.dtype(dtype)), InputSettings.model_validate(keys))


def noise(width: int, height: int) -> NDArray[np.uint8]:
    return np.random.default_rng(width * 7919 + height).integers(0, 256, (height, width, 3), np.uint8)


def filled(
    image: NDArray[np.uint8], shape: tuple[int, ...] = PLANAR, dtype: str = "float32", **keys: Any
) -> tuple[NDArray[Any], Geometry]:
    """Return the row as H×W×C."""
    row = np.full(shape[1:], 99, dtype)
    geometry = preprocessor(shape, dtype, **keys).fill(image, row)
    return (row.transpose(1, 2, 0) if shape[1] in (1, 3) else row), geometry


def bilinear(image: NDArray[np.uint8], width: int, height: int) -> NDArray[np.float64]:
    """Resize the slow way: pixel centres at half, edges repeated."""

    def taps(wanted: int, given: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
        at = np.clip((np.arange(wanted) + 0.5) * given / wanted - 0.5, 0, given - 1)
        low = np.floor(at).astype(np.int64)
        return low, np.minimum(low + 1, given - 1), at - low

    left, right, x = taps(width, image.shape[1])
    top, bottom, y = taps(height, image.shape[0])
    pixels = image.astype(np.float64)
    rows = pixels[top] * (1 - y)[:, None, None] + pixels[bottom] * y[:, None, None]
    mixed: NDArray[np.float64] = rows[:, left] * (1 - x)[:, None] + rows[:, right] * x[:, None]
    return mixed


# Input 64×48 throughout. 100×50: scale min(0.64, 0.96) → 64×32. 50×100: scale min(1.28, 0.48) → 24×48.
@pytest.mark.parametrize(
    ("source_px", "anchor", "place"),
    [
        ((100, 50), "top-left", (0, 0, 64, 32)),
        ((100, 50), "center", (0, 8, 64, 32)),
        ((50, 100), "top-left", (0, 0, 24, 48)),
        ((50, 100), "center", (20, 0, 24, 48)),
        ((32, 24), "center", (0, 0, 64, 48)),
        ((97, 50), "top-left", (0, 0, 64, 32)),  # 50·64/97 = 32.99, rounded down as YOLOX does
        ((30, 31), "center", (9, 0, 46, 48)),  # 30·48/31 = 46.45; 18 columns are free
    ],
)
def test_letterbox_keeps_the_aspect_and_pads_the_rest(
    source_px: tuple[int, int], anchor: str, place: tuple[int, int, int, int]
) -> None:
    image = noise(*source_px)
    row, geometry = filled(image, color="bgr", anchor=anchor)
    x, y, width, height = place
    wanted = np.full((48, 64, 3), 114.0)
    wanted[y : y + height, x : x + width] = bilinear(image, width, height)
    np.testing.assert_allclose(row, wanted, atol=1)
    assert geometry == Geometry(source_px, width / source_px[0], height / source_px[1], x, y)


def test_stretch_takes_the_whole_picture_with_a_scale_for_each_axis() -> None:
    image = noise(100, 30)
    row, geometry = filled(image, color="bgr", resize="stretch")
    np.testing.assert_allclose(row, bilinear(image, 64, 48), atol=1)
    assert geometry == Geometry((100, 30), 0.64, 1.6, 0, 0)


# The input's aspect is 4:3, so of 100×60 the middle 80×60 is taken, and of 80×100 the middle 80×60.
@pytest.mark.parametrize(
    ("source_px", "cut", "offset"), [((100, 60), (10, 0), (-8.0, 0.0)), ((80, 100), (0, 20), (0.0, -16.0))]
)
def test_crop_takes_the_middle_that_has_the_inputs_aspect(
    source_px: tuple[int, int], cut: tuple[int, int], offset: tuple[float, float]
) -> None:
    image = noise(*source_px)
    row, geometry = filled(image, color="bgr", resize="crop")
    middle = image[cut[1] : cut[1] + 60, cut[0] : cut[0] + 80]
    np.testing.assert_allclose(row, bilinear(middle, 64, 48), atol=1)
    assert geometry == Geometry(source_px, 0.8, 0.8, *offset)


@pytest.mark.parametrize("resize", ["letterbox", "stretch", "crop"])
def test_a_picture_of_the_inputs_size_is_not_resampled(resize: str) -> None:
    image = noise(64, 48)
    row, geometry = filled(image, color="bgr", resize=resize)
    np.testing.assert_array_equal(row, image)
    assert geometry == Geometry((64, 48), 1, 1, 0, 0)


@pytest.mark.parametrize("shape", [PLANAR, INTERLEAVED])
@pytest.mark.parametrize(
    ("color", "wanted"),
    [
        # (pixel - mean) · scale / std: (10-10)·2/1, (20-10)·2/2, (30-10)·2/4; then red first: (30-10)·2/1 …
        ("bgr", (0.0, 10.0, 10.0)),
        ("rgb", (40.0, 10.0, 0.0)),
    ],
)
def test_mean_and_std_count_in_the_models_channel_order(
    shape: tuple[int, ...], color: str, wanted: tuple[float, ...]
) -> None:
    image = np.full((48, 64, 3), (10, 20, 30), np.uint8)
    row, _ = filled(image, shape, color=color, mean=[10.0, 10.0, 10.0], std=[1.0, 2.0, 4.0], scale=2.0)
    np.testing.assert_array_equal(row[0, 0], wanted)
    np.testing.assert_array_equal(row, np.broadcast_to(np.array(wanted), (48, 64, 3)))


@pytest.mark.parametrize("shape", [(1, 4, 48, 64), (1, 48, 64, 4)])
@pytest.mark.parametrize(("color", "wanted"), [("bgra", (20, 40, 60, 510)), ("rgba", (60, 40, 20, 510))])
def test_a_fourth_channel_is_an_opaque_alpha(shape: tuple[int, ...], color: str, wanted: tuple[float, ...]) -> None:
    lane = preprocessor(shape, color=color, scale=2.0)
    row = np.empty(shape[1:], np.float32)
    for size_px in ((64, 48), (100, 20), (64, 48)):  # the picture before leaves nothing
        lane.fill(np.full((size_px[1], size_px[0], 3), (10, 20, 30), np.uint8), row)
        canvas = row.transpose(1, 2, 0) if shape[1] == 4 else row
        np.testing.assert_array_equal(canvas[24, 32], wanted)
    four, three = ([0.0, 0.0, 10.0, 5.0], [0.0, 0.0, 10.0])
    equal = [100.0] * 3  # counts for all
    for mean, alpha in ((four, 250), (three, 255), (equal, 155)):  # without a number of its own alpha is not shifted
        preprocessor(shape, color=color, mean=mean).fill(np.zeros((48, 64, 3), np.uint8), row)
        assert row.transpose(1, 2, 0)[0, 0, 3] == alpha if shape[1] == 4 else row[0, 0, 3] == alpha


def test_a_scale_that_leaves_a_byte_all_but_black_is_refused() -> None:
    with pytest.raises(ModelError, match=r"of the 256 levels of a picture, .* leaves 2 in uint8.*; set scale = 1\.0"):
        preprocessor(dtype="uint8", scale=1 / 255)
    assert preprocessor(dtype="uint8", scale=0.5).input_px == (64, 48)


# The shorter side becomes 120 pixels long, and 64×48 are cut out of the middle.
@pytest.mark.parametrize(
    ("source_px", "region"),
    [
        ((160, 120), (48, 36, 64, 48)),  # scaled by 1: the middle as it is
        ((320, 240), (96, 72, 128, 96)),
        ((480, 240), (176, 72, 128, 96)),
    ],
)
def test_the_input_is_cut_out_of_the_resized_picture(
    source_px: tuple[int, int], region: tuple[int, int, int, int]
) -> None:
    image = noise(*source_px)
    row, geometry = filled(image, color="bgr", resize="crop", resize_to=120)
    x, y, width, height = region
    np.testing.assert_allclose(row, bilinear(image[y : y + height, x : x + width], 64, 48), atol=1)
    assert geometry == Geometry(source_px, 64 / width, 48 / height, -x * 64 / width, -y * 48 / height)


def test_an_input_larger_than_the_resized_picture_is_refused() -> None:
    with pytest.raises(ModelError, match=r"\[input\] resize_to: found 50, wanted at least 64"):
        preprocessor(resize="crop", resize_to=50)


@pytest.mark.parametrize("shape", [PLANAR, INTERLEAVED])
def test_padding_is_normalised_like_a_pixel(shape: tuple[int, ...]) -> None:
    row, _ = filled(noise(64, 24), shape, color="rgb", pad=100, mean=[0.0, 50.0, 100.0], scale=0.5)
    np.testing.assert_array_equal(row[47, 63], (50.0, 25.0, 0.0))


def test_one_mean_and_one_std_count_for_all_channels() -> None:
    one, _ = filled(noise(80, 50), mean=[127.5], std=[127.5])
    three, _ = filled(noise(80, 50), mean=[127.5] * 3, std=[127.5] * 3)
    np.testing.assert_array_equal(one, three)


@pytest.mark.parametrize("color", ["bgr", "rgb"])
@pytest.mark.parametrize("anchor", ["top-left", "center"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "float64", "uint8", "int32"])
@pytest.mark.parametrize("shape", [PLANAR, INTERLEAVED])
def test_every_layout_and_dtype_holds_the_same_picture(
    shape: tuple[int, ...], dtype: str, anchor: str, color: str
) -> None:
    for size_px in ((90, 200), (200, 90), (64, 20)):
        wanted, _ = filled(noise(*size_px), color=color, anchor=anchor)
        row, _ = filled(noise(*size_px), shape, dtype, color=color, anchor=anchor)
        assert row.dtype == dtype
        np.testing.assert_array_equal(row, wanted)


def test_float16_holds_the_nearest_of_each_value() -> None:
    image = noise(64, 48)
    row, _ = filled(image, dtype="float16", color="bgr", mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375])
    wanted = (image - np.array([123.675, 116.28, 103.53])) / np.array([58.395, 57.12, 57.375])
    np.testing.assert_array_equal(row, wanted.astype(np.float16))


def test_uint8_is_rounded_not_cut() -> None:
    image = np.full((48, 64, 3), 3, np.uint8)
    row, _ = filled(image, dtype="uint8", color="bgr", scale=0.6)  # 1.8
    np.testing.assert_array_equal(row, 2)


def test_int8_takes_pixels_less_128() -> None:
    row, _ = filled(noise(64, 48), dtype="int8", color="bgr", mean=[128.0] * 3)
    np.testing.assert_array_equal(row, noise(64, 48).astype(int) - 128)


@pytest.mark.parametrize("shape", [(1, 1, 48, 64), (1, 48, 64, 1)])
def test_gray_is_the_brightness_of_the_colours(shape: tuple[int, ...]) -> None:
    image = np.full((24, 64, 3), (10, 20, 30), np.uint8)
    row, _ = filled(image, shape, color="gray", anchor="top-left", scale=0.5)
    assert row[0, 0] == 11  # 0.114·10 + 0.587·20 + 0.299·30 = 21.85, as uint8 22
    assert row[47, 0] == 57


@pytest.mark.parametrize("shape", [PLANAR, INTERLEAVED])
@pytest.mark.parametrize("anchor", ["top-left", "center"])
def test_a_row_keeps_nothing_of_the_picture_before(shape: tuple[int, ...], anchor: str) -> None:
    lane = preprocessor(shape, anchor=anchor)
    row = np.empty(shape[1:], np.float32)
    for width, height in [(100, 20), (20, 100), (64, 48), (300, 299), (1, 1), (100, 20)]:
        lane.fill(noise(width, height), row)
        fresh = np.full(shape[1:], np.nan, np.float32)
        preprocessor(shape, anchor=anchor).fill(noise(width, height), fresh)
        np.testing.assert_array_equal(row, fresh)


def test_more_source_sizes_than_are_kept_in_mind_still_fit() -> None:
    lane = preprocessor()
    row = np.empty(PLANAR[1:], np.float32)
    first = [lane.fill(noise(width, 40), row) for width in range(30, 60)]
    assert [lane.fill(noise(width, 40), row) for width in range(30, 60)] == first


def test_only_the_given_row_is_written() -> None:
    batch = np.full((3, *PLANAR[1:]), -1, np.float32)
    preprocessor(anchor="center").fill(noise(100, 50), batch[1])
    assert (batch[0] == -1).all()
    assert (batch[1] != -1).all()
    assert (batch[2] == -1).all()


def test_a_picture_that_cannot_be_written_to_or_is_a_part_of_another_is_read() -> None:
    image = noise(120, 90)
    image.setflags(write=False)
    part = image[5:77, 11:107]
    row, _ = filled(part, color="bgr")
    np.testing.assert_allclose(row, bilinear(part, 64, 48), atol=1)


@pytest.mark.parametrize("resize", ["letterbox", "stretch", "crop"])
def test_one_pixel_fills_what_it_is_scaled_to(resize: str) -> None:
    row, geometry = filled(np.full((1, 1, 3), 7, np.uint8), color="bgr", resize=resize, anchor="top-left")
    wide = 48 if resize == "letterbox" else 64
    np.testing.assert_array_equal(row[:, :wide], 7)
    np.testing.assert_array_equal(row[:, wide:], 114)
    assert (geometry.scale_x, geometry.scale_y) == (wide, 48)


@pytest.mark.parametrize("resize", ["letterbox", "stretch", "crop"])
def test_a_picture_of_48_megapixels_fits(resize: str) -> None:
    image = np.zeros((6000, 8000, 3), np.uint8)
    image[:, 4000:] = 200
    row, geometry = filled(image, resize=resize)
    np.testing.assert_array_equal(row[:, :32], 0)
    np.testing.assert_array_equal(row[:, 32:], 200)
    assert geometry == Geometry((8000, 6000), 0.008, 0.008, 0, 0)


@pytest.mark.parametrize(("source_px", "fitted_px"), [((3000, 1), (64, 1)), ((1, 3000), (1, 48))])
def test_a_line_keeps_one_pixel_of_its_short_side(source_px: tuple[int, int], fitted_px: tuple[int, int]) -> None:
    row, geometry = filled(np.zeros((source_px[1], source_px[0], 3), np.uint8), anchor="top-left")
    assert np.argwhere(row[:, :, 0] == 0).max(axis=0).tolist() == [fitted_px[1] - 1, fitted_px[0] - 1]
    assert geometry.scale_x == fitted_px[0] / source_px[0]
    assert geometry.scale_y == fitted_px[1] / source_px[1]


def test_the_limiting_side_fills_the_input_whatever_floating_point_says() -> None:
    assert int(47 * (64 / 47)) == 64
    short = [width for width in range(1, 4000) if int(width * (64 / width)) == 63]
    assert short  # where whole numbers differ from YOLOX's own product
    for width in short:
        assert filled(np.zeros((1, width, 3), np.uint8))[1].scale_x == 64 / width


def test_the_inputs_size_is_told_as_width_and_height() -> None:
    assert preprocessor(PLANAR).input_px == (64, 48)
    assert preprocessor(INTERLEAVED).input_px == (64, 48)
    assert preprocessor((None, 3, 48, 64)).input_px == (64, 48)


WANTED_COLOR = "wanted N×3×H×W or N×H×W×3 for color"
WANTED_GRAY = "wanted N×1×H×W or N×H×W×1 for color"
EXPORT = ": export it so"
SET_COLOR = "; set color in [input] to that of the model"
TYPES = "float32, float16, float64, uint8, int8, int32"
CORRECT_SCALE = "; correct scale, mean and std in [input]"


@pytest.mark.parametrize(
    ("shape", "keys", "sentence"),
    [
        (
            (1, 4, 8, 8),
            {"color": "bgr"},
            f"found 1×4×8×8, wanted N×3×H×W or N×H×W×3 for color 'bgr'{SET_COLOR}: 'bgra' or 'rgba'",
        ),
        (
            (1, 3, 8, 8),
            {"color": "gray"},
            f"found 1×3×8×8, wanted N×1×H×W or N×H×W×1 for color 'gray'{SET_COLOR}: 'bgr' or 'rgb'",
        ),
        (
            (1, 8, 8, 1),
            {"color": "rgb"},
            f"found 1×8×8×1, wanted N×3×H×W or N×H×W×3 for color 'rgb'{SET_COLOR}: 'gray'",
        ),
        (
            (1, 10),
            {},
            f"found 1×10, {WANTED_COLOR} 'rgb'; a model of one picture with 1, 3 or 4 channels can be served{EXPORT}",
        ),
        (
            (None, 3, None, 8),
            {},
            "found ?×3×?×8, wanted a fixed height and width; set size = [width, height] in [input]",
        ),
    ],
)
def test_an_input_of_another_shape_is_refused_in_one_sentence(
    shape: tuple[int | None, ...], keys: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ModelError) as refused:
        preprocessor(shape, **keys)
    assert str(refused.value) == f"input 'images': {sentence}"


@pytest.mark.parametrize(
    ("dtype", "keys", "sentence"),
    [
        ("int64", {}, f"found int64, wanted one of {TYPES}; export the model with one of them"),
        ("int8", {}, f"goes from 0 to 255, wanted values that int8{CORRECT_SCALE}"),
        ("uint8", {"mean": [127.5], "std": [127.5]}, f"goes from -1 to 1, wanted values that uint8{CORRECT_SCALE}"),
        ("float16", {"scale": 1000.0}, f"goes from 0 to 255000, wanted values that float16{CORRECT_SCALE}"),
    ],
)
def test_values_that_the_input_cannot_hold_are_refused_in_one_sentence(
    dtype: str, keys: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ModelError) as refused:
        preprocessor(PLANAR, dtype, **keys)
    told = str(refused.value).replace("(pixel - mean) * scale / std ", "").replace(" can hold", "")
    assert told == f"input 'images': {sentence}"


def test_more_means_than_channels_are_refused() -> None:
    with pytest.raises(ModelError) as refused:
        preprocessor((1, 1, 8, 8), color="gray", mean=[1.0, 2.0, 3.0])
    assert str(refused.value) == "[input] mean: found 3 numbers, wanted 1 for this model's input"


SIDES_PX = st.integers(1, 3000)
WAYS = st.sampled_from([("letterbox", "top-left"), ("letterbox", "center"), ("stretch", "center"), ("crop", "center")])


@settings(max_examples=60, deadline=None)
@given(width=SIDES_PX, height=SIDES_PX, way=WAYS, shape=st.sampled_from([PLANAR, INTERLEAVED]))
def test_any_picture_fills_the_whole_row(width: int, height: int, way: tuple[str, str], shape: tuple[int, ...]) -> None:
    row = np.full(shape[1:], np.nan, np.float32)
    lane = preprocessor(shape, resize=way[0], anchor=way[1], std=[255.0])
    lane.fill(np.full((height, width, 3), 255, np.uint8), row)
    assert set(np.unique(row)) <= {np.float32(1), np.float32(114 / 255)}
    assert (row == 1).any()


@settings(max_examples=60, deadline=None)
@given(width=st.integers(30, 600), height=st.integers(30, 600), way=WAYS, part=st.tuples(*[st.floats(0.3, 0.7)] * 2))
def test_the_geometry_tells_where_a_source_pixel_lies(
    width: int, height: int, way: tuple[str, str], part: tuple[float, float]
) -> None:
    """An edge painted in the source is found in the input where the geometry says, within a pixel of the coarser."""
    x, y = round(width * part[0]), round(height * part[1])
    image = np.zeros((height, width, 3), np.uint8)
    image[y:, x:] = 255
    row, geometry = filled(image, resize=way[0], anchor=way[1], pad=0)
    bright = np.argwhere(row[:, :, 0] > 127)
    wanted_x = x * geometry.scale_x + geometry.offset_x
    wanted_y = y * geometry.scale_y + geometry.offset_y
    if 0 < wanted_x < 63 and 0 < wanted_y < 47:
        assert abs(bright[:, 1].min() - wanted_x) <= 1 + geometry.scale_x / 2
        assert abs(bright[:, 0].min() - wanted_y) <= 1 + geometry.scale_y / 2
