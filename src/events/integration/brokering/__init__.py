"""Shared by the transports for brokers: reconnecting, sends in flight, subscriptions."""
