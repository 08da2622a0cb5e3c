"""Contact with the terminal: what the commands print, and what people type, as values.

``transcript`` and ``wording`` turn events into text, ``flow`` breaks streamed text into lines,
``tables`` and ``spans`` show entities, ``failures`` explains errors, ``options`` parses what was
typed, ``screen`` alone writes. ``installation`` is what the commands need from the rest.
"""
