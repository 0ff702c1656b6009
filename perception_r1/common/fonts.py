"""The one font of drawings; matplotlib ships it, so that it is the same on every machine."""

from pathlib import Path

import matplotlib

FONT = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
