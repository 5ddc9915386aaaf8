"""The decisions: pure, synchronous, deterministic. Facts come in as method calls, effects go out as values."""
