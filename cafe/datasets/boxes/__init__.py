"""Boxes on images, of people or of detectors: COCO JSON, Pascal VOC, CSV and YOLO."""
