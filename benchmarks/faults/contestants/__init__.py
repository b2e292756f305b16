"""The programs that are killed: a sender and a consumer for each library, alike but for the library.

Each is a process of its own and keeps a journal. They run in the benchmarks' environment; what
starts, freezes and kills them need not.
"""
