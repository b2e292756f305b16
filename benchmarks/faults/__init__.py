"""What becomes of events when processes and brokers die: ours and a peer under the same faults."""
