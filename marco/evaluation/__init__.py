"""Measuring Marco: any strategy, any model, at the same number of generated tokens.

Read `plan` first (what is measured), then `runner` (how it is made, row by row), `records` (what a row holds),
`replay` (how an answer is chosen from a row, again and again), `metrics` and `summary` (what is made of it),
`report` (the page). `tasks` holds the problems and their scores; ground truth stays there and in the rows.
"""
