"""DICOM: series of slices read to volumes, with what is needed to refer back to them (extra ``dicom``)."""
