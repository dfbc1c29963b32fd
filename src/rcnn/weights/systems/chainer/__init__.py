"""Both Mask R-CNNs in Chainer."""
