"""The programs that are killed: for each library a sender and a consumer, alike but for that.

Each is a process of its own and keeps a journal. They run in the benchmarks' environment; what
starts, freezes and kills them need not.
"""
