"""How good detections are: COCO's metrics, and the tables that tell them."""
