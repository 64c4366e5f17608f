"""The routes of the MONAI Label API: one file for each group of them.

An infer is a task like any other, on which the answer waits; images and labels are the datastore's.
"""
