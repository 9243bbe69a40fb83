"""What is read out of a model's text: boxes, names, points and tags, in pixels of the source image."""

from __future__ import annotations

import numpy as np
import pytest

from uio2.evaluate.answers import boxes_of, keypoints_of, labelled_of, tags_of

# A 200x100 (height x width) image fitted into 100x100: scale 0.5, 25 pixels of padding left and right.
INFO = [0, 25, 2.0, 200, 100, 0, 0, 0, 0, 100, 50]
SIZE = (100, 100)


def pieces(*numbers):
    """Location pieces of whole canvas pixels."""
    return " ".join(f"<extra_id_{200 + 10 * n}>" for n in numbers)


def boxes(text):
    return boxes_of(text, image_info=INFO, size=SIZE)


def test_runs_of_four_become_boxes_and_broken_runs_are_dropped():
    text = f"{pieces(0, 25, 50, 75)}, {pieces(1, 2, 3)} and {pieces(10, 30, 20, 40)} {pieces(7)}"
    np.testing.assert_allclose(boxes(text), [[0, 0, 100, 100], [20, 10, 40, 30]])
    assert boxes("no box at all") == []
    # What lies on the padding is clipped to the image.
    np.testing.assert_allclose(boxes(pieces(0, 0, 90, 99)), [[0, 0, 180, 100]])


def test_a_box_said_twice_counts_once_and_the_first_stays():
    first, nearly, other = (0, 25, 50, 75), (0, 25, 49, 75), (0, 25, 30, 75)
    text = f"{pieces(*first)} {pieces(*nearly)} {pieces(*other)} {pieces(*first)}"
    np.testing.assert_allclose(boxes(text), [[0, 0, 100, 100], [0, 0, 60, 100]])


def test_a_detection_is_a_box_with_a_name():
    text = f"{pieces(0, 25, 50, 75)} Traffic light {pieces(10, 30, 20, 40)} {pieces(5)} {pieces(20, 30, 40, 40)} cat"
    found = labelled_of(text, image_info=INFO, size=SIZE)
    # The second box runs on into a fifth piece: the last four before a name are the box, as in the published models.
    assert found.labels == ("traffic light", "cat")
    np.testing.assert_allclose(found.boxes[0], [0, 0, 100, 100])
    np.testing.assert_allclose(found.boxes[1], [40, 10, 80, 30])


def test_keypoints_of_the_source_image():
    text = f"{pieces(10, 30)} nose {pieces(20, 50)} left ankle {pieces(90, 90)} tail {pieces(1)}"
    person = keypoints_of(text, image_info=INFO, size=SIZE)
    np.testing.assert_allclose(person[0], [10, 20, 2])
    np.testing.assert_allclose(person[15], [50, 40, 2])
    # Parts without a name stand in the middle of those with one.
    np.testing.assert_allclose(person[1], [30, 30, 0])
    assert keypoints_of("a person", image_info=INFO, size=SIZE) is None


@pytest.mark.parametrize(
    ("text", "tags"),
    [
        ("Dog, bark, dog", ["dog", "bark"]),
        ("male speech, man speaking, dog", ["male speech, man speaking", "dog"]),
        ("man speaking", ["man speaking"]),
        (" , ", []),
    ],
)
def test_tags_may_hold_commas(text, tags):
    assert tags_of(text, known={"Male speech, man speaking", "dog"}) == tags
