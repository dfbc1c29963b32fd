"""The two Chainer ports of Mask R-CNN."""
