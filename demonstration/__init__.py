"""What the page of demo.py does, without the page: compress, open, edit, compare.

page = Workbench(Models(get_preset("tiny"), "cpu"))
shown = page.compress("photo.jpg", 150, ("text", "sketch", "color"))
"""

from demonstration.bars import layer_bar
from demonstration.models import Models
from demonstration.workbench import LAYERS, Shown, Workbench, painted

__all__ = ["LAYERS", "Models", "Shown", "Workbench", "layer_bar", "painted"]
