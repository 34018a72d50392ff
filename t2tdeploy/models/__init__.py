"""Layers, models and the search that decodes them (torch; no serving, no problems)."""
