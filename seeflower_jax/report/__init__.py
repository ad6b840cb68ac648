"""The page of a run: one HTML file that needs no other file and no network.

    path = collect.write("runs/inception_seed0")       # runs/.../report.html

`collect` reads the run directory and computes examples, `html` renders the page,
`charts` lays out the drawings, and templates/ has text, structure and style.
"""
