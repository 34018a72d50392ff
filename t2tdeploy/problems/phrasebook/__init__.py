"""Phrases and short sentences about dates, times and amounts in English, German and French: the data of dates.py.

templates.py says what can be said, calendar_slots.py and amount_slots.py fill in the values, numerals.py and lexicon.py
hold numbers and words, draw.py puts a phrase together.
"""
