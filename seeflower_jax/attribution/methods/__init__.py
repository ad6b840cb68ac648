"""The attribution methods, one a file. `attribution` lists and exports them."""
