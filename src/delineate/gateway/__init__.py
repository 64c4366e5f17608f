"""A DICOM node: series come in, rules choose models, results go to where they belong."""
