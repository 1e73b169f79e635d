"""Table of model families: how the outputs of each are read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from edge.inference.decode.reading import Parts, Reading

CLASSIFIER = "topk"


@dataclass(frozen=True)
class Family:
    """Row of the table."""

    reading: Reading
    models: str  # models whose exports are laid out so
    export: str  # the command or option that gives this output


_ROWS: Parts = ("box", "score", "class")
FAMILIES: Mapping[str, Family] = {
    "yolox": Family(
        Reading((("box", "objectness", "scores"),), coding="yolox"),
        "YOLOX, raw",
        "tools/export_onnx.py",
    ),
    "yolov8": Family(
        Reading((("box", "scores"),), layout="columns"),
        "YOLOv8, YOLOv9, YOLO11, YOLO12, YOLOv5u, YOLO-World",
        "yolo export format=onnx",
    ),
    "yolov10": Family(
        Reading((_ROWS,), boxes="xyxy", nms=False),
        "YOLOv10, YOLO26, any Ultralytics export with nms=True",
        "yolo export format=onnx",
    ),
    "ssd": Family(
        Reading((("scores",), ("box",)), boxes="xyxy", units="unit", background="first"),
        "SSD with decoded boxes, as of jetson-inference, Ultra-Light-Fast",
        "onnx_export.py",
    ),
    "detr": Family(
        Reading((("scores",), ("box",)), units="unit", activation=None, background=None, nms=False),
        "DETR, RT-DETR and D-FINE by Hugging Face, TAO DINO and RT-DETR",
        "optimum-cli export onnx",
    ),
    "yolov5": Family(
        Reading((("box", "objectness", "scores"),)),
        "YOLOv5, YOLOv7, YOLOv6, YOLOv3 and YOLOv4 in PyTorch, YOLOX with decoded boxes",
        "export.py --include onnx; YOLOX: tools/export_onnx.py --decode_in_inference",
    ),
    "yolov7-end2end": Family(
        Reading((("picture", "box", "class", "score"),), boxes="xyxy", nms=False),
        "YOLOv7 with suppression in the graph",
        "export.py --grid --end2end --max-wh 640",
    ),
    "yolo-nas": Family(
        Reading((("box",), ("scores",)), boxes="xyxy"),
        "YOLO-NAS, DAMO-YOLO, PP-YOLOE and PicoDet without their suppression",
        "model.export(…, postprocessing=False)",
    ),
    "yolo-nas-flat": Family(
        Reading((("picture", "box", "score", "class"),), boxes="xyxy", nms=False),
        "YOLO-NAS with suppression in the graph, flat",
        "model.export(…, output_predictions_format='flat')",
    ),
    "deepstream-yolo": Family(
        Reading((_ROWS,), boxes="xyxy"),
        "exporters of DeepStream-Yolo",
        "utils/export_yoloV8.py and its neighbours",
    ),
    "efficientnms": Family(
        Reading((("count",), ("box",), ("score",), ("class",)), boxes="xyxy", nms=False),
        "outputs of EfficientNMS_TRT and BatchedNMS_TRT: TAO, YOLOv7, mmyolo",
        "export.py --end2end, TAO export",
    ),
    "mmdeploy": Family(
        Reading((("box", "score"), ("class",)), boxes="xyxy", nms=False),
        "RTMDet and other models of MMDetection by MMDeploy",
        "tools/deploy.py",
    ),
    "torchvision": Family(
        Reading((("box",), ("class",), ("score",)), boxes="xyxy", background="first", nms=False),
        "torchvision's detectors: Faster R-CNN, RetinaNet, FCOS, SSD",
        "torch.onnx.export",
    ),
    "tensorflow": Family(
        Reading(
            (("box",), ("class",), ("score",), ("count",)), boxes="yxyx", units="unit", background="first", nms=False
        ),
        "TensorFlow's object detection API, by tf2onnx, with its four outputs",
        "python -m tf2onnx.convert --outputs detection_boxes:0,detection_classes:0,detection_scores:0,num_detections:0",
    ),
    "d-fine": Family(
        Reading((("class",), ("box",), ("score",)), boxes="xyxy", nms=False),
        "D-FINE, DEIM, RT-DETR v1 and v2 by their own exporters",
        "tools/deployment/export_onnx.py",
    ),
    "rf-detr": Family(
        Reading((("box",), ("scores",)), units="unit", activation="sigmoid", background="last", nms=False),
        "RF-DETR",
        "model.export()",
    ),
    "rtdetr-ultralytics": Family(
        Reading((("box", "scores"),), units="unit", nms=False),
        "RT-DETR by Ultralytics, a score for each class",
        "yolo export model=rtdetr-l.pt format=onnx, before 2026",
    ),
    "rtdetr-top": Family(
        Reading((_ROWS,), units="unit", nms=False),
        "RT-DETR by Ultralytics, best class alone",
        "yolo export model=rtdetr-l.pt format=onnx",
    ),
    "paddle": Family(
        Reading((("class", "score", "box"), ("count",)), boxes="xyxy", nms=False),
        "PaddleDetection with suppression in the graph: PP-YOLOE, PicoDet, RT-DETR",
        "paddle2onnx",
    ),
    "onnx-nms": Family(
        Reading((("box",), ("scores",), ("kept",)), layout="columns", boxes="yxyx", nms=False),
        "graphs that end in ONNX's own NonMaxSuppression, with its boxes and scores as outputs",
        "the indices, boxes and scores as outputs",
    ),
    "openvino": Family(
        Reading((("picture", "class", "score", "box"),), boxes="xyxy", units="unit", nms=False),
        "DetectionOutput of Caffe and OpenVINO",
        "1×1×N×7, as rows",
    ),
}

# Names of models whose outputs are laid out as those of the family that is named on the right.
ALIASES = {
    **dict.fromkeys(("yolo8", "yolov9", "yolo9", "yolo11", "yolov11", "yolo12", "yolov12"), "yolov8"),
    **dict.fromkeys(("yolo10", "yolo26", "yolov26"), "yolov10"),
    **dict.fromkeys(("rtdetr", "rt-detr"), "detr"),
    **dict.fromkeys(("yolo5", "yolov7", "yolo7", "yolov6", "yolo6", "yolov3", "yolov4", "yolox-decoded"), "yolov5"),
    **dict.fromkeys(("damo-yolo", "pp-yoloe", "picodet"), "yolo-nas"),
    **dict.fromkeys(("batchednms", "efficientnms_trt"), "efficientnms"),
    **dict.fromkeys(("rtmdet", "mmdet"), "mmdeploy"),
    **dict.fromkeys(("deim", "dfine", "rtdetrv2"), "d-fine"),
    "rfdetr": "rf-detr",
}
NAMES = (CLASSIFIER, *FAMILIES)
