"""What end-to-end tests and the load runner need: clusters of real processes, and calls to them."""
