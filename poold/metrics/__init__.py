"""The broker's figures for monitoring systems: as texts in Prometheus's formats, and the server that gives them."""
