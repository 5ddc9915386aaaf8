"""Groups, their pools and endpoints: where backends are opened, used and retired."""
