"""What every transport for a broker needs, once: pauses between attempts, and URLs in logs."""
