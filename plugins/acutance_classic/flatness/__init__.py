"""How flat the loss is around the weights: steps, boxes, averages, and curvature that scales cannot change."""
