"""How many cards a film or a training takes, worked out from measured rates: no card is needed.

    geometry -> work of a card (`parts`, `blocks`, `wire`) -> seconds and bytes (`layer`, `step`,
    `memory`) -> the arrangement of cards that is fastest (`arrange`) -> a report

Every rate and every assumption is in `rates` and `cards`, with where it comes from.
"""
