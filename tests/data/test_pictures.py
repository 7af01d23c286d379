"""Pictures, boxes and the windows cut out of them: what is read, and what is refused."""

import json

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

import thalweg
from thalweg.data.boxes import Boxes, overlaps, read_boxes
from thalweg.data.crops import window_of, windows
from thalweg.data.pictures import open_pictures
from thalweg.data.resample import cut, resized
from thalweg.errors import DataError, SettingsError


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for name, shape in {"b.png": (20, 30), "a.png": (40, 25, 3)}.items():
        Image.fromarray(rng.integers(0, 256, shape).astype(np.uint8)).save(tmp_path / "photos" / name)
    return tmp_path / "photos"


def test_pictures_of_a_folder_come_one_by_one_in_the_channels_asked_for(folder):
    shown = open_pictures(folder)
    assert shown.names == ("a.png", "b.png")
    assert [picture.shape for picture in shown] == [(40, 25, 3), (20, 30, 3)]
    assert [picture.shape for picture in open_pictures(folder, 1)] == [(40, 25, 1), (20, 30, 1)]
    grey = open_pictures(folder / "b.png")
    assert len(grey) == 1
    np.testing.assert_array_equal(grey[0][..., 0], np.asarray(Image.open(folder / "b.png")))


@pytest.mark.parametrize(
    ("source", "channels", "shapes"),
    [
        (np.zeros((5, 7)), None, [(5, 7, 1)]),
        (np.zeros((2, 5, 7)), 1, [(5, 7, 1)] * 2),
        (np.zeros((5, 7, 3)), 3, [(5, 7, 3)]),
        (np.zeros((2, 5, 7, 3)), None, [(5, 7, 3)] * 2),
        ([np.zeros((5, 7)), np.zeros((6, 4))], 1, [(5, 7, 1), (6, 4, 1)]),
    ],
)
def test_arrays_are_pictures(source, channels, shapes, tmp_path):
    assert [picture.shape for picture in open_pictures(source, channels)] == shapes
    if isinstance(source, np.ndarray):
        np.save(tmp_path / "x.npy", source)
        assert [picture.shape for picture in open_pictures(tmp_path / "x.npy", channels)] == shapes


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (np.zeros((2, 3, 4, 5, 6)), "holds no pictures"),
        (np.zeros((0, 3, 4)), "holds no pictures"),
        ([], "is empty"),
        (np.zeros((2, 5, 7, 3)), "has 3 channels where the model's windows have 1"),
        ([np.full((5, 7), np.nan)], "pixels that are not finite"),
        ([np.array([["a"]])], "not of numbers of shape"),
        (7, "int is not something to look for objects in"),
    ],
)
def test_what_is_no_picture_is_refused(source, message):
    with pytest.raises(DataError, match=message):
        open_pictures(source, 1)


def test_boxes_come_from_tables_and_coco_files(tmp_path):
    rows = {"image": ["b.png", "a.png"], "x": [1, 2], "y": [3, 4.5], "width": [5, 6], "height": [7, 8]}
    (tmp_path / "boxes.csv").write_text(
        "image,x,y,width,height,label\nb.png,1,3,5,7,3\na.png,2,4.5,6,8,cat\n"
    )
    coco = {
        "images": [{"id": 10, "file_name": "b.png"}, {"id": 20, "file_name": "a.png"}],
        "categories": [{"id": 1, "name": "3"}, {"id": 2, "name": "cat"}],
        "annotations": [
            {"image_id": 10, "bbox": [1, 3, 5, 7], "category_id": 1},
            {"image_id": 20, "bbox": [2, 4.5, 6, 8], "category_id": 2},
        ],
    }
    (tmp_path / "boxes.json").write_text(json.dumps(coco))
    names = ("a.png", "b.png")
    for source in (tmp_path / "boxes.csv", tmp_path / "boxes.json", {**rows, "label": ["3", "cat"]}):
        found = read_boxes(source, names)
        assert found.picture.tolist() == [1, 0]
        assert found.place.tolist() == [[1, 3, 5, 7], [2, 4.5, 6, 8]]
        assert found.label.tolist() == ["3", "cat"]
    again = read_boxes(found.to_table(), names)
    np.testing.assert_array_equal(again.place, found.place)
    plain = read_boxes({**rows, "image": [1, 0]})
    assert plain.label is None
    assert plain.to_table().column_names == ["image", "x", "y", "width", "height"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": ["a.png", "c.png"]}, r"row 1: there is no picture 'c.png': did you mean 'b.png'"),
        ({"image": [0, 2]}, r"row 1: there is no picture 2: they count from 0 to 1"),
        ({"width": [5, 0]}, r"row 1: a box of 0×8 pixels holds nothing"),
        ({"x": [None, 1.0]}, r"column 'x', row 0: the number is missing"),
        ({"y": ["3", "four"]}, r"column 'y': cells of type string are not numbers of pixels"),
    ],
)
def test_boxes_that_cannot_be_are_refused(change, message):
    rows = {"image": ["b.png", "a.png"], "x": [1, 2], "y": [3, 4], "width": [5, 6], "height": [7, 8]}
    with pytest.raises(DataError, match=message):
        read_boxes(pa.table({**rows, **change}), ("a.png", "b.png"))


def test_a_table_without_a_side_and_a_broken_coco_file_are_refused(tmp_path):
    with pytest.raises(DataError, match="no column 'width', which boxes need"):
        read_boxes({"image": [0], "x": [1], "y": [1], "w": [2], "height": [2]})
    (tmp_path / "boxes.json").write_text('{"images": []}')
    with pytest.raises(DataError, match="a COCO file has images, annotations and categories"):
        read_boxes(tmp_path / "boxes.json")


def test_a_window_has_the_centre_and_the_area_of_its_box():
    place = window_of(np.array([[10.0, 20, 30, 10]]), (40, 10))
    np.testing.assert_allclose(place[0, :2] + place[0, 2:] / 2, [25, 25])
    np.testing.assert_allclose(place[0, 2] * place[0, 3], 300)
    np.testing.assert_allclose(place[0, 3] / place[0, 2], 4)


def test_what_is_cut_out_is_what_is_there():
    picture = np.random.default_rng(0).random((20, 30, 2))
    np.testing.assert_allclose(
        cut(picture, np.array([4.0, 5, 10, 8]), (8, 10)), picture[5:13, 4:14], rtol=1e-6
    )
    # Shrunk by two, away from the borders of what is cut, as the whole picture is shrunk.
    whole = resized(picture, (10, 15))
    np.testing.assert_allclose(cut(picture, np.array([4.0, 4, 20, 12]), (6, 10)), whole[2:8, 2:12], rtol=1e-5)
    # Beyond the border lies what lies on it.
    beyond = cut(picture, np.array([-3.0, 0, 6, 4]), (4, 6))
    np.testing.assert_allclose(beyond[:, :3], np.repeat(picture[:4, :1], 3, axis=1), rtol=1e-6)


def test_windows_lie_on_boxes_or_beside_them(tmp_path):
    """Pictures whose pixels say where they are: x and y in two channels."""
    y, x = np.meshgrid(np.arange(60.0), np.arange(80.0), indexing="ij")
    pictures = np.repeat(np.stack([x + 0.5, y + 0.5], axis=-1)[None], 8, axis=0)
    place = np.array([30.0, 20, 20, 10])
    boxes = Boxes(np.arange(8), np.array([place] * 8), np.array(list("aabbaabb"), object))
    found = windows(pictures, boxes, (5, 10), copies=4, negatives=30)
    assert found.pixels.shape == (len(found.labels), 5, 10, 2)
    across, down = found.pixels[..., 0].mean(axis=1), found.pixels[..., 1].mean(axis=2)
    # Where the border repeats, the middle of a window still says where it is.
    width = 10 * np.median(np.diff(across, axis=1), axis=1)
    height = 5 * np.median(np.diff(down, axis=1), axis=1)
    there = found.labels != "background"
    assert there.sum() == 8 * 4
    assert found.labels[there].tolist() == [label for label in "aabbaabb" for _ in range(4)]
    assert 100 < (~there).sum() <= 8 * 30
    lies = np.stack(
        [np.median(across, axis=1) - width / 2, np.median(down, axis=1) - height / 2, width, height], 1
    )
    inside = (lies[:, :2] >= 0).all(axis=1) & (lies[:, :2] + lies[:, 2:] <= [80, 60]).all(axis=1)
    common = overlaps(lies, place)
    assert common[there].min() > 0.6
    assert common[~there & inside].max() < 0.31
    assert common[~there & inside].max() > 0.2
    assert (width[~there & inside] / 10).max() > 4
    found.save(tmp_path / "windows.npz")
    table = thalweg.data.load(tmp_path / "windows.npz")
    assert table.grid == (5, 10, 2)
    assert table.table["label"].to_pylist() == found.labels.tolist()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"boxes": Boxes(np.array([0]), np.array([[70.0, 10, 20, 20]]))},
            DataError,
            r"20×20 at \(70, 10\) reaches beyond",
        ),
        ({"boxes": Boxes(np.array([9]), np.array([[0.0, 0, 20, 20]]))}, DataError, "a box lies in picture 9"),
        ({"size": (61, 10)}, DataError, r"is 80×60 pixels, smaller than a window of 10×61"),
        ({"background": "a"}, SettingsError, "boxes are labelled 'a': name the background otherwise"),
        ({"copies": 0}, SettingsError, "each box gives at least one window"),
    ],
)
def test_windows_that_cannot_be_cut_are_refused(change, error, message):
    boxes = Boxes(np.array([0]), np.array([[0.0, 0, 20, 20]]), np.array(["a"], object))
    arguments = {"pictures": np.zeros((2, 60, 80), np.uint8), "boxes": boxes, "size": (10, 10), **change}
    with pytest.raises(error, match=message):
        windows(arguments.pop("pictures"), arguments.pop("boxes"), arguments.pop("size"), **arguments)
