"""FCIS: ChainerCV, chainer-fcis and MXNet."""
