"""What stands at the beginning of a quantization: which frames serve what, and which are of no use."""

from __future__ import annotations

import numpy as np

from edge.precision.quantizer import are_blank, digest, hold_back


def test_every_second_frame_is_held_back_and_one_serves_as_both() -> None:
    frames = [np.full((1, 1, 3), number, np.uint8) for number in range(5)]
    calibrating, held_back = hold_back(frames)
    assert [int(frame[0, 0, 0]) for frame in calibrating] == [0, 2, 4]
    assert [int(frame[0, 0, 0]) for frame in held_back] == [1, 3]
    assert hold_back(frames[:1]) == (frames[:1], frames[:1])


def test_pictures_of_one_colour_are_blank() -> None:
    black, grey = np.zeros((4, 4, 3), np.uint8), np.full((4, 4, 3), 90, np.uint8)
    assert are_blank([black, grey])
    spotted = black.copy()
    spotted[1, 2, 0] = 1
    assert not are_blank([black, spotted])


def test_the_digest_tells_pictures_apart() -> None:
    one, other = np.zeros((2, 3, 3), np.uint8), np.zeros((3, 2, 3), np.uint8)
    assert digest([one]) == digest([one.copy()])
    assert len({digest([one]), digest([other]), digest([one, one]), digest([])}) == 4
