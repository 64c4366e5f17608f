"""The model `GMM+GraphCut`: `delineate.models.scribbles` under a name that clients know."""
