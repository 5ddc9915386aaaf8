"""A shop: customers, their orders, and Django's admin for both."""
