"""The images and labels that an annotation project works on: a folder as people have it, and its index in the database.

The folder's files are what they are; the database knows their ids, versions, who did what and when. Only the server opens
a datastore; everybody else speaks a protocol to it.
"""
