"""The attribution methods, one per file. `attribution` lists and exports them."""
