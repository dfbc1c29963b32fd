"""rcnn's opaque ops as standard ONNX operators (opset 18), one file per subject.

Each function has the arguments and results of the op that it replaces, and is called once per node while the file is
written. `TRANSLATIONS` in table.py maps each op to its function.
"""
