"""The model `Histogram+GraphCut`: `delineate.models.scribbles` under a name that clients know."""
