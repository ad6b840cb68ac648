"""The configs of the project: `python -m scripts.train --config=configs/NAME.py`."""
