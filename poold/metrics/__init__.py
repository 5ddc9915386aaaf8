"""What monitoring systems collect: the broker's figures in Prometheus's text formats, and the server that gives them."""
