"""Targets, data and recipes as the user names them."""

from casemate.assess.datasets import LoadedData, load_data
from casemate.assess.models import Loaded, device_of, load_model
from casemate.assess.recipes import load_recipe

__all__ = ["Loaded", "LoadedData", "device_of", "load_data", "load_model", "load_recipe"]
