"""Instance segmentation with an exported file, numpy and onnxruntime alone: python onnx_numpy.py FILE.onnx IMAGE.npy

IMAGE.npy is an RGB image (height, width, 3) uint8, e.g. np.save("photo.npy", np.asarray(PIL.Image.open("photo.jpg"))).
"""

import json
import sys

import numpy as np
import onnxruntime as ort


def resize(image, height, width):
    """Bilinear resize of (H, W, ...) to (height, width, ...); samples at pixel centres, no antialiasing."""
    for axis, side in ((0, height), (1, width)):
        at = np.clip((np.arange(side) + 0.5) * image.shape[axis] / side - 0.5, 0, image.shape[axis] - 1)
        low = at.astype(int)
        share = (at - low).reshape([-1 if i == axis else 1 for i in range(image.ndim)])
        high = np.minimum(low + 1, image.shape[axis] - 1)
        image = image.take(low, axis) * (1 - share) + image.take(high, axis) * share
    return image


def detect(session, image):
    """Boxes (N, 4) in pixels of the image, scores (N,), class names and masks (N, height, width) bool."""
    record = json.loads(session.get_modelmeta().custom_metadata_map["rcnn"])
    settings, classes = record["config"]["input"], record["classes"]
    height, width = image.shape[:2]
    scale = min(settings["min_size"] / min(height, width), settings["max_size"] / max(height, width))
    size = round(height * scale), round(width * scale)
    unit = settings["divisor"] or 1
    padded = np.zeros((3, *(-(-side // unit) * unit for side in size)), np.float32)
    padded[:, : size[0], : size[1]] = resize(image.astype(np.float32), *size).transpose(2, 0, 1)
    if session.get_inputs()[0].type == "tensor(uint8)":
        padded = np.rint(padded).astype(np.uint8)
    found = session.run(record["outputs"], {"images": padded[None], "sizes": np.array([size])})
    found = dict(zip(record["outputs"], (value[0] for value in found), strict=True))
    valid = found["valid"]
    boxes = found["boxes"][valid] * np.tile([width / size[1], height / size[0]], 2)
    masks = [paste(mask, box, height, width) for mask, box in zip(found["masks"][valid], boxes, strict=True)]
    return boxes, found["scores"][valid], [classes[label] for label in found["labels"][valid]], masks


def paste(mask, box, height, width):
    """A mask (m, m) of probabilities in its box, as (height, width) bool."""
    x1, y1, x2, y2 = np.rint(np.clip(box, 0, [width, height, width, height])).astype(int)
    whole = np.zeros((height, width), bool)
    if x2 > x1 and y2 > y1:
        whole[y1:y2, x1:x2] = resize(mask, y2 - y1, x2 - x1) >= 0.5
    return whole


if __name__ == "__main__":
    session = ort.InferenceSession(sys.argv[1])
    for box, score, name, mask in zip(*detect(session, np.load(sys.argv[2])), strict=True):
        print(f"{name} {score:.2f} at {box.round(1).tolist()}, {mask.sum()} pixels")
