"""Ground truth: labelled boxes of a COCO file, or a folder of images for each class."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edge.core.errors import ConfigError
from edge.core.records import IMAGE_SUFFIXES, Detections, Findings
from edge.core.redaction import one_line
from edge.precision.average_precision import TrueBoxes, mean_average_precision

Label = TrueBoxes | int  # boxes of an image, or its class

_TOP_K = 5
_SHOWN = 3  # names in a message
_WORDNET = re.compile(r"n\d{8}")  # ImageNet's names of folders


class _CocoRecord(BaseModel):
    """A part of a COCO file; other keys are ignored."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)


class _Image(_CocoRecord):
    id: int
    file_name: str


class _Category(_CocoRecord):
    id: int
    name: str | None = None


class _Annotation(_CocoRecord):
    image_id: int
    category_id: int
    bbox: tuple[float, float, Annotated[float, Field(ge=0)], Annotated[float, Field(ge=0)]]  # x, y, width, height
    iscrowd: bool = False


class _Coco(_CocoRecord):
    images: list[_Image]
    annotations: list[_Annotation]
    categories: list[_Category] = []


def read_boxes(path: Path, pictures: Path, labels: Sequence[str]) -> dict[Path, TrueBoxes]:
    """Read the boxes of each image of a COCO file; the images are in the folder `pictures`.

    A category stands for the model's label of the same name; if the file has no names, its id is the model's class id.
    Raises ConfigError if the file does not fit the model or the images.
    """
    coco = _read_coco(path)
    ids = _class_ids(path, coco, labels)
    paths = _found_pictures(path, coco.images, pictures)
    by_image: dict[int, list[_Annotation]] = {image.id: [] for image in coco.images}
    for each in coco.annotations:
        if each.image_id not in by_image:
            raise ConfigError(f"truth {path}: a box refers to image {each.image_id}, which is not in the file; fix it")
        by_image[each.image_id].append(each)
    return {paths[image_id]: _true_boxes(boxes, ids) for image_id, boxes in by_image.items()}


def _read_coco(path: Path) -> _Coco:
    try:
        coco = _Coco.model_validate(json.loads(path.read_bytes()))
    except OSError as error:
        raise ConfigError(f"truth {path} cannot be read ({error.strerror}); wanted a COCO JSON file") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise ConfigError(f"truth {path} is not a COCO file of boxes: {place}: {one_line(first['msg'])}") from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"truth {path} is not valid JSON ({error}); wanted a COCO file") from None
    if not coco.images:
        raise ConfigError(f"truth {path} lists no images; wanted a COCO file with the images to verify on")
    return coco


def _class_ids(path: Path, coco: _Coco, labels: Sequence[str]) -> Mapping[int, int]:
    """Return the model's class id of each category that has boxes."""
    used = {each.category_id for each in coco.annotations}
    names = {each.id: each.name for each in coco.categories if each.name is not None}
    if names and labels:
        places = {_plain(label): place for place, label in reversed(list(enumerate(labels)))}
        unknown = [names.get(each, str(each)) for each in sorted(used) if _plain(names.get(each, "")) not in places]
        if unknown:
            raise ConfigError(
                f"truth {path}: found categories {_some(unknown)}, wanted labels of the model ({_some(labels)}); "
                "use the same names"
            )
        return {each: places[_plain(names[each])] for each in used}
    if unknown := [str(each) for each in sorted(used) if each < 0 or (labels and each >= len(labels))]:
        wanted = f"0 to {len(labels) - 1}" if labels else "0 or more"
        raise ConfigError(
            f"truth {path}: found category ids {_some(unknown)} and no names, wanted class ids of the model: {wanted}"
        )
    return {each: each for each in used}


def _found_pictures(path: Path, images: Sequence[_Image], folder: Path) -> dict[int, Path]:
    if not folder.is_dir():
        raise ConfigError(f"--frames {folder}: found no folder, wanted the folder of the images in {path}")
    paths = {image.id: folder / image.file_name for image in images}
    if missing := [image.file_name for image in images if not paths[image.id].is_file()]:
        raise ConfigError(
            f"truth {path}: {len(missing)} of its {len(images)} images are not in {folder}: {_some(missing)}; "
            "give their folder with --frames"
        )
    return paths


def _true_boxes(annotations: Sequence[_Annotation], ids: Mapping[int, int]) -> TrueBoxes:
    boxes = np.array([each.bbox for each in annotations], np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    class_ids = np.array([ids[each.category_id] for each in annotations], np.int64)
    return TrueBoxes(boxes, class_ids, np.array([each.iscrowd for each in annotations], np.bool_))


def read_classes(folder: Path, labels: Sequence[str]) -> dict[Path, int]:
    """Read the class of each image from a folder with a folder of images for each class.

    The folders are named after labels or class ids; ImageNet's own names are taken in order if there is one for each
    label. Raises ConfigError if they do not fit the model.
    """
    folders = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not folders:
        raise ConfigError(f"truth {folder} contains no folders; wanted one for each class, with its images")
    ids = _folder_ids(folder, [path.name for path in folders], labels)
    found = {
        path: class_id
        for each, class_id in zip(folders, ids, strict=True)
        for path in sorted(each.iterdir())
        if path.suffix.lower() in IMAGE_SUFFIXES
    }
    if not found:
        raise ConfigError(f"truth {folder} contains no image in its {len(folders)} folders; wanted .jpg or .png files")
    return found


def _folder_ids(folder: Path, names: Sequence[str], labels: Sequence[str]) -> list[int]:
    places = {_plain(label): place for place, label in reversed(list(enumerate(labels)))}
    unknown = [name for name in names if _plain(name) not in places]
    if labels and not unknown:
        return [places[_plain(name)] for name in names]
    if all(name.isdecimal() for name in names):
        ids = [int(name) for name in names]
        if not labels or max(ids) < len(labels):
            return ids
    if len(names) == len(labels) and all(_WORDNET.fullmatch(name) for name in names):
        return list(range(len(names)))
    wanted = f"labels of the model ({_some(labels)}), or class ids" if labels else "class ids"
    raise ConfigError(f"truth {folder}: found folders {_some(unknown)}, wanted {wanted}; rename them")


def accuracy(truth: Sequence[Label], found: Sequence[Findings]) -> dict[str, float]:
    """Return map50 and map50_95 of boxes, or top1 and top5 of classes; nothing if no image has a labelled object."""
    boxes = [(true, each) for true, each in zip(truth, found, strict=True) if isinstance(true, TrueBoxes)]
    if boxes:
        pairs = [(true, each) for true, each in boxes if isinstance(each, Detections)]
        mean = mean_average_precision([true for true, _ in pairs], [each for _, each in pairs])
        return {} if mean is None else {"map50": mean.map50, "map50_95": mean.map50_95}
    if not truth:
        return {}
    best = [each.class_ids[:_TOP_K].tolist() for each in found]
    return {
        "top1": sum(ids[:1] == [true] for ids, true in zip(best, truth, strict=True)) / len(truth),
        "top5": sum(true in ids for ids, true in zip(best, truth, strict=True)) / len(truth),
    }


def _plain(label: str) -> str:
    """Return a label for comparison: without underscores, which replace blanks in file names, and without case."""
    return label.strip().replace("_", " ").casefold()


def _some(names: Iterable[Any]) -> str:
    listed = [one_line(str(name))[:80] for name in names]
    more = f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
    return ", ".join(repr(name) for name in listed[:_SHOWN]) + more
