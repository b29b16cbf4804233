"""A budget of bytes for a whole file -> bytes for each of its layers.

    from allocation.config import BudgetConfig
    from allocation.encoder import BudgetEncoder
    encoder = BudgetEncoder(get_preset("tiny"), BudgetConfig(budget=240), "cpu")
    data = encoder.encode([image])[0]       # at most 240 bytes

`table` says what was best for a budget on other photographs, `encoder` splits the budget of each
image. docs/allocation.md explains both.
"""
