"""Where tasks, models and their files are kept: one database and one folder of blobs.

Only the server and its workers open the store; everybody else speaks a protocol to the server.
"""
