"""A small made-up world, written as a fMoW tree in ground-truth form, to try everything on.

The pictures follow from the metadata as on Earth: where the sun stands, what season it is, how people build there, how the
satellite looks down. So a model that pairs pictures with metadata has something true to learn.
"""

from satmip_data.demo.write import DemoSummary, write_demo

__all__ = ["DemoSummary", "write_demo"]
